/** Reads a file of test vectors. */
import { readFileSync } from 'node:fs'

export const vectors = <T>(name: string): T =>
  JSON.parse(readFileSync(new URL(`../../contract/vectors/${name}.json`, import.meta.url), 'utf8')) as T
