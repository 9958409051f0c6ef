#!/usr/bin/env node
// Lets Node read TypeScript where it can't by itself, then runs the command.
if (!process.features.typescript) (await import('tsx/esm/api')).register()
await import('./keyturn.ts')
