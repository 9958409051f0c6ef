#!/usr/bin/env node
// Starts the command from a bundle of its sources (docs/adr/0009); where there can be none, lets Node read TypeScript.
const { bundled, COMMAND, SCAN } = await import('../infra/bundle.mjs')
const bundle = await bundled(process.argv[2] === 'scan' ? SCAN : COMMAND, 'cli/keyturn.ts')
if (bundle === undefined && !process.features.typescript) (await import('tsx/esm/api')).register()
await import(bundle ?? './keyturn.ts')
