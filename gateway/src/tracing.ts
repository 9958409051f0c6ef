/** A span per decision, where a tracer is there: OpenTelemetry's, known by its shape alone. It says which key it was, never what was shown. */
import type { Authenticate, Authentication } from './authenticate.ts'

interface Span {
  setAttribute(name: string, value: string): unknown
  end(): void
}
/** What is needed of `Tracer` of `@opentelemetry/api`. */
export interface Tracer {
  startSpan(name: string): Span
}

function describe(span: Span, answer: Authentication): void {
  span.setAttribute('keyturn.outcome', answer.accepted ? 'accepted' : answer.problem.code)
  if (answer.accepted) span.setAttribute('keyturn.key_id', answer.key.keyId)
}

export function traced(tracer: Tracer | undefined, authenticate: Authenticate): Authenticate {
  if (tracer === undefined) return authenticate
  return (request, scopes) => {
    const span = tracer.startSpan('keyturn.authenticate')
    const end = (answer?: Authentication): void => {
      if (answer !== undefined) describe(span, answer)
      span.end()
    }
    try {
      const answer = authenticate(request, scopes)
      if (!(answer instanceof Promise)) {
        end(answer)
        return answer
      }
      return answer.then(
        (settled) => {
          end(settled)
          return settled
        },
        (error: unknown) => {
          end()
          throw error
        },
      )
    } catch (error) {
      end()
      throw error
    }
  }
}
