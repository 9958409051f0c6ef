/** `node infra/program.mjs workers/api-server.ts` runs a program from its bundle; where there is none, from its source. */
import { join } from 'node:path'
import { ROOT } from './bootstrap.mjs'
import { addressOf } from './bundle.mjs'

const [node = '', , program = '', ...rest] = process.argv
// As if it had been called itself.
process.argv = [node, join(ROOT, program), ...rest]
await import(await addressOf(program))
