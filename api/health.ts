import Type from 'typebox'
import { withinTime } from './dependencies.ts'
import type { ApiDeps } from './ports.ts'
import type { Api } from './routes.ts'

const CHECK_MS = 2_000

const Answer = Type.Enum(['ok', 'unavailable'])
const Ready = Type.Object({ ready: Type.Boolean(), postgres: Answer, kafka: Answer, temporal: Answer })

export function healthRoutes(api: Api, { db, temporal, pingKafka }: ApiDeps): void {
  api.get(
    '/healthz',
    {
      schema: {
        operationId: 'healthz',
        summary: 'The process is alive',
        security: [],
        response: { 200: Type.Object({ status: Type.Literal('ok') }) },
      },
    },
    () => ({ status: 'ok' as const }),
  )

  api.get(
    '/readyz',
    {
      schema: {
        operationId: 'readyz',
        summary: 'The servers that Keyturn needs answer',
        security: [],
        response: { 200: Ready, 503: Ready },
      },
    },
    async (_request, reply) => {
      const [postgres, kafka, server] = await Promise.all([
        answers(withinTime('PostgreSQL', CHECK_MS, db.query('select 1'))),
        answers(withinTime('Kafka', CHECK_MS, pingKafka())),
        answers(
          withinTime(
            'Temporal',
            CHECK_MS,
            temporal.withDeadline(Date.now() + CHECK_MS, () => temporal.workflowService.getSystemInfo({})),
          ),
        ),
      ])
      const ready = postgres === 'ok' && kafka === 'ok' && server === 'ok'
      return reply
        .code(ready ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({ ready, postgres, kafka, temporal: server })
    },
  )
}

const answers = (check: Promise<unknown>): Promise<'ok' | 'unavailable'> =>
  check.then(
    () => 'ok' as const,
    () => 'unavailable' as const,
  )
