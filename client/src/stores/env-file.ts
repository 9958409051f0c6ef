/**
 * One variable of an environment file (`.env`), for programs that read their key from there. The file keeps every other line as it is. What a variable has no
 * place for, the key before and a claim under way, is in a file beside it, `<path>.keyturn`.
 *
 * The file beside it is written first. Where the two differ, after a kill between them, the variable is behind, or a person has put another key there: that one
 * counts, then.
 */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { readDocument, writeDocument } from '../document.ts'
import { keyIdOf } from '../given.ts'
import {
  kindOf,
  type Store,
  StoreConflict,
  type Stored,
  type StoredCredential,
  type StoredKey,
  type StoredValue,
  StoreError,
} from '../store.ts'
import { diskError, readText, replaceFile, target } from './disk.ts'
import { watchFile } from './file.ts'
import { withLock } from './lock.ts'

export interface EnvFileOptions {
  readonly path: string
  /** Its name, `PROVIDER_KEY` say. */
  readonly variable: string
  /** Of a token that stands there without a file beside it. `bearer` unless given. */
  readonly kind?: 'bearer' | 'hmac-sha256'
}

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/
/** What no reader of such files takes for anything but itself. */
const PLAIN = /^[A-Za-z0-9_./:@%+,=-]*$/

interface Found {
  /** The text of the file. */
  readonly env: string
  readonly stored: Stored | undefined
  /** The variable does not say what the file beside it does. */
  readonly behind: boolean
}

const tokenOf = (key: StoredKey | undefined): string | undefined =>
  key === undefined || key.kind === 'ed25519' ? undefined : key.token

const isOf = (value: StoredValue, token: string): boolean =>
  value.current !== undefined && (token === tokenOf(value.current) || token === tokenOf(value.previous))

const hashOf = (text: string): string => createHash('sha256').update(text).digest('base64url')

export function envFileStore({ path, variable, kind = 'bearer' }: EnvFileOptions): Store {
  if (!NAME.test(variable)) throw new TypeError('a variable has a name of letters, digits and _')
  const beside = `${path}.keyturn`
  const line = new RegExp(`^([ \\t]*(?:export[ \\t]+)?${variable}[ \\t]*=)(.*?)(\\r?)$`, 'gm')

  /** What the last line with this name says; later ones win. */
  const valueIn = (text: string): string | undefined => {
    const [, , raw] = [...text.matchAll(line)].at(-1) ?? []
    return raw === undefined ? undefined : readRaw(raw).value
  }

  const withValue = (text: string, value: string): string => {
    if (valueIn(text) === undefined) {
      return `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${variable}=${quote(value)}\n`
    }
    return text.replace(line, (_, name: string, raw: string, end: string) => {
      const { before, mark, after } = readRaw(raw)
      return name + before + (mark === '' || value.includes(mark) ? quote(value) : mark + value + mark) + after + end
    })
  }

  const look = async (signal?: AbortSignal): Promise<Found> => {
    const [env = '', kept] = await Promise.all([readText(path, signal), readText(beside, signal)])
    const token = valueIn(env) || undefined
    const document = kept === undefined ? undefined : readDocument(kept, beside)
    if (document !== undefined && (token === undefined || isOf(document, token))) {
      return { env, stored: { value: document, version: hashOf(kept ?? '') }, behind: token !== tokenOf(document.current) }
    }
    if (token === undefined) return { env, stored: undefined, behind: false }
    const value: StoredCredential = { format: 1, current: { keyId: keyIdOf(token) ?? 'imported', kind, token } }
    return { env, stored: { value, version: hashOf(token + (kept ?? '')) }, behind: false }
  }

  const say = (error: unknown): never => {
    throw diskError(path, error)
  }

  const setVariable = async (file: string, env: string, token: string): Promise<void> => {
    const changed = withValue(env, token)
    if (changed !== env) await replaceFile(file, changed, await modeOf(file))
  }

  const catchUp = async (signal?: AbortSignal): Promise<Found> => {
    const found = await look(signal)
    const token = found.stored === undefined ? undefined : tokenOf(found.stored.value.current)
    if (found.behind && token !== undefined) await setVariable(await target(path), found.env, token)
    return found
  }

  return {
    async read(signal) {
      const found = await look(signal).catch(say)
      if (!found.behind) return found.stored
      // A process was killed before it came to the variable, and others read that alone.
      const { stored } = await withLock(await target(path), () => catchUp(signal), signal).catch(say)
      return stored
    },
    async replace(next, after, signal) {
      if (kindOf(next) === 'ed25519') {
        throw new StoreError('failed', `${path} holds tokens: keep an Ed25519 key in a file store.`)
      }
      // Before it waits for the lock, and again when it has it.
      if ((await look(signal).catch(say)).stored?.version !== after) throw new StoreConflict()
      const file = await target(path)
      const replace = async (): Promise<string> => {
        const { env, stored } = await look(signal)
        if (stored?.version !== after) throw new StoreConflict()
        const text = `${writeDocument(next)}\n`
        await replaceFile(beside, text)
        const token = tokenOf(next.current)
        if (token !== undefined) await setVariable(file, env, token)
        return hashOf(text)
      }
      return withLock(file, replace, signal).catch(say)
    },
    watch(onChange) {
      const ends = [watchFile(path, onChange), watchFile(beside, onChange)]
      return () => {
        for (const end of ends) end()
      }
    },
  }
}

/** Others read the file too: they keep what permission they have. */
const modeOf = async (path: string): Promise<number> =>
  stat(path).then(
    ({ mode }) => mode & 0o777,
    () => 0o600,
  )

/** What stands after the sign of equality: blanks, the value with its quotation marks, if any, and a comment. */
const RAW = /^([ \t]*)(?:(["'])(.*?)\2|(.*?))((?:[ \t]+#.*|[ \t]*)?)$/

function readRaw(raw: string): { before: string; mark: string; value: string; after: string } {
  const [, before = '', mark = '', quoted, plain = '', after = ''] = RAW.exec(raw) ?? []
  return { before, mark, value: quoted ?? plain, after }
}

function quote(value: string): string {
  if (PLAIN.test(value)) return value
  if (!value.includes("'")) return `'${value}'`
  throw new StoreError('failed', 'the key holds a quotation mark, which an environment file has no place for')
}
