#!/usr/bin/env node
// Lets Node read TypeScript where it can't by itself, then runs the command. Only `scan` has a bundle that starts faster.
const bundle = process.argv[2] === 'scan' ? await (await import('./scan-bundle.js')).scanBundle() : undefined
if (bundle === undefined && !process.features.typescript) (await import('tsx/esm/api')).register()
await import(bundle ?? './keyturn.ts')
