/** Holds answers of the API against its own description. */
import { PROBLEM_MEDIA_TYPE } from '@keyturn/contract'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

export interface OpenApiResponse {
  readonly description: string
  readonly content?: Readonly<Record<string, { readonly schema?: object }>>
}
export interface OpenApiOperation {
  readonly operationId?: string
  readonly summary?: string
  readonly security?: readonly object[]
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly required?: boolean }[]
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: object }>> }
  readonly responses: Readonly<Record<string, OpenApiResponse>>
}
export interface OpenApiDocument {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, OpenApiOperation>>>>
}

export interface SeenAnswer {
  readonly method: string
  /** With its query, as it was sent. */
  readonly path: string
  readonly status: number
  readonly mediaType: string | undefined
  readonly body: unknown
}

/** Throws when an answer is not one that the document declares. A path that it does not know is checked as a problem alone. */
export type AnswerCheck = (answer: SeenAnswer) => void

export function answerCheck(document: OpenApiDocument): AnswerCheck {
  const ajv = new Ajv2020({ strict: true, allErrors: true })
  addFormats.default(ajv)
  const compiled = new Map<object, ValidateFunction>()
  const fits = (schema: object, body: unknown): string | undefined => {
    const validate = compiled.get(schema) ?? ajv.compile(schema)
    compiled.set(schema, validate)
    return validate(body) ? undefined : ajv.errorsText(validate.errors)
  }
  // What stands in a path as it is counts before what fills a parameter.
  const parameters = (template: string): number => template.split('{').length
  const routes = Object.entries(document.paths)
    .toSorted(([a], [b]) => parameters(a) - parameters(b))
    .map(([template, operations]) => ({
      pattern: new RegExp(`^${template.replaceAll(/\{[^}]+\}/g, '[^/]+')}$`),
      operations,
    }))
  const [anyOperation] = Object.values(document.paths['/v1/clients'] ?? {})
  const problemOnly: OpenApiOperation = { responses: { '4XX': anyOperation?.responses['4XX'] ?? { description: '' } } }

  return ({ method, path, status, mediaType, body }) => {
    const [plain = ''] = path.split('?', 1)
    const operation = routes.find(({ pattern }) => pattern.test(plain))?.operations[method.toLowerCase()] ?? problemOnly
    const answer = `${method} ${plain} → ${status} ${mediaType ?? 'nothing'}`
    const declared = operation.responses[status] ?? operation.responses[`${String(status)[0]}XX`]
    if (declared === undefined) throw new Error(`${answer}: the document does not declare this status`)
    if (mediaType === undefined) {
      if (declared.content !== undefined) throw new Error(`${answer}: the document declares a body`)
      return
    }
    if (status >= 400 && status !== 503 && mediaType !== PROBLEM_MEDIA_TYPE) throw new Error(`${answer}: not a problem document`)
    const schema = declared.content?.[mediaType]?.schema
    if (schema === undefined) throw new Error(`${answer}: the document does not declare this media type`)
    const flaw = fits(schema, body)
    if (flaw !== undefined) throw new Error(`${answer}: does not fit its schema: ${flaw}\n${JSON.stringify(body, null, 1)}`)
  }
}
