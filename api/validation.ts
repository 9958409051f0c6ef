/**
 * Requests are checked by the validator that the contract uses, so that one schema means one thing everywhere. Bodies are taken
 * as they are; numbers in a query string are converted first. Unknown fields are refused, all flaws are listed.
 */
import { explain, type SchemaError } from '@keyturn/contract'
import type { FastifySchemaCompiler } from 'fastify'
import type { Static, TSchema } from 'typebox'
import { Compile, type Validator } from 'typebox/compile'
import { type FieldError, ValidationError } from './problems.ts'
import { withoutKeys } from './stray-keys.ts'

const MAX_ERRORS = 20

/** What should have been kept secret may stand where a name or a time belongs. */
export const withoutKeysIn = ({ path, message }: FieldError): FieldError => ({
  path: path.split('/').map(withoutKeys).join('/'),
  message: withoutKeys(message),
})

function described(schema: TSchema, path: string): string | undefined {
  let at: unknown = schema
  for (const part of path.split('/').slice(1)) {
    const { properties, items } = at as { properties?: Record<string, unknown>; items?: unknown }
    at = properties?.[part] ?? items
    if (at === undefined) return undefined
  }
  return (at as { description?: string }).description
}

/** What comes in a query is text. Only what is written as a whole number is taken for one. */
function withNumbers(schema: TSchema, query: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { properties = {} } = schema as { properties?: Record<string, { type?: unknown }> }
  const read = ([name, value]: [string, unknown]): [string, unknown] => [
    name,
    properties[name]?.type === 'integer' && typeof value === 'string' && /^-?\d{1,15}$/.test(value) ? Number(value) : value,
  ]
  return Object.fromEntries(Object.entries(query).map(read))
}

export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const validator = Compile(schema)
  return (given: unknown) => {
    const value = httpPart === 'querystring' ? withNumbers(schema, given as Readonly<Record<string, unknown>>) : given
    if (validator.Check(value)) return { value }
    return { error: flawsOf(schema, validator, value) }
  }
}

const compiled = new WeakMap<TSchema, Validator>()

/**
 * The same for a body that a route reads by itself.
 * @throws ValidationError
 */
export function check<T extends TSchema>(schema: T, value: unknown): Static<T> {
  const validator = compiled.get(schema) ?? Compile(schema)
  compiled.set(schema, validator)
  if (!validator.Check(value)) throw flawsOf(schema, validator, value)
  return value as Static<T>
}

function flawsOf(schema: TSchema, validator: Validator, value: unknown): ValidationError {
  const found: FieldError[] = []
  for (const error of validator.Errors(value) as SchemaError[]) {
    // Missing fields of something that is not an object at all are no news.
    if (error.keyword === 'required' && (value === undefined || value === null || typeof value !== 'object')) continue
    for (const flaw of explain(error).map(withoutKeysIn)) {
      // What is too long does not fit its pattern either: one line per field says enough.
      if (found.some(({ path }) => path === flaw.path)) continue
      const meaning = error.keyword === 'pattern' || error.keyword === 'format' ? described(schema, flaw.path) : undefined
      found.push(meaning === undefined ? flaw : { path: flaw.path, message: `does not look right; expected ${meaning}` })
    }
  }
  return new ValidationError(found.slice(0, MAX_ERRORS))
}
