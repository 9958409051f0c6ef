/** What every command is given, and how it is run. */
import { Command } from 'commander'
import type { Api } from './http.ts'
import { createOutput, type Output } from './output.ts'

export interface Context {
  readonly output: Output
  readonly api: Api
}

/** A subcommand with `--json`. */
export const command = (name: string, description: string): Command =>
  new Command(name).description(description).option('--json', 'print JSON')

/** Runs a command's work with the API at hand. */
export const withApi =
  <A extends unknown[]>(work: (context: Context, ...given: A) => Promise<void>) =>
  async (...given: [...A, Command]): Promise<void> => {
    // Loaded late, for commands that have no need of the API.
    const [{ createApi }, { apiSettings }] = await Promise.all([import('./http.ts'), import('./settings.ts')])
    const self = given.at(-1) as Command
    const output = outputOf(self)
    const api = createApi(apiSettings(process.env, process.cwd()))
    await work({ output, api }, ...(given.slice(0, -1) as unknown as A))
  }

export const outputOf = (self: Command): Output =>
  createOutput({
    json: self.optsWithGlobals()['json'] === true,
    env: process.env,
    stdout: process.stdout,
    stderr: process.stderr,
  })
