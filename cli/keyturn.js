#!/usr/bin/env node
// Lets Node read TypeScript, then runs the command.
import { register } from 'tsx/esm/api'

register()
await import('./keyturn.ts')
