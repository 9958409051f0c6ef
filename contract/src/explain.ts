/** Errors of a schema in plain words, one line per field. */
export interface FieldFlaw {
  /** JSON Pointer (RFC 6901). */
  readonly path: string
  readonly message: string
}

/** What the validators of `typebox/compile` say. */
export interface SchemaError {
  readonly keyword: string
  readonly schemaPath: string
  readonly instancePath: string
  readonly message: string
  readonly params: object
}

const pointer = (base: string, name: string): string => `${base}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`

export function explain(error: SchemaError): FieldFlaw[] {
  const { instancePath: path, keyword } = error
  const params = error.params as {
    requiredProperties?: string[]
    additionalProperties?: string[]
    allowedValues?: unknown[]
    limit?: number
    type?: string
  }
  switch (keyword) {
    case 'required':
      return (params.requiredProperties ?? []).map((name) => ({ path: pointer(path, name), message: 'is missing' }))
    case 'additionalProperties':
      return (params.additionalProperties ?? []).map((name) => ({ path: pointer(path, name), message: 'is not a field here' }))
    case 'boolean':
      return []
    case 'enum':
      return [{ path, message: `must be one of: ${(params.allowedValues ?? []).join(', ')}` }]
    case 'type':
      return [{ path, message: path === '' && params.type === 'object' ? 'send a JSON object' : `must be ${params.type}` }]
    case 'minLength':
      return [{ path, message: params.limit === 1 ? 'must not be empty' : `must have ${params.limit} characters or more` }]
    case 'maxLength':
      return [{ path, message: `must have ${params.limit} characters or fewer` }]
    case 'minItems':
      return [{ path, message: `must have ${params.limit} items or more` }]
    case 'maxItems':
      return [{ path, message: `must have ${params.limit} items or fewer` }]
    case 'uniqueItems':
      return [{ path, message: 'must not hold the same item twice' }]
    default:
      return [{ path, message: error.message }]
  }
}
