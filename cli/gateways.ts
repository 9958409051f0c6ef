import { Command } from 'commander'
import { command, withApi } from './context.ts'
import { plain, table } from './output.ts'
import { clock } from './rendering.ts'

interface GatewayList {
  readonly gateways: readonly {
    readonly gatewayId: string
    readonly region: string
    readonly at: string
    readonly freshness: string
    readonly keys: number
    readonly live: boolean
  }[]
}

export function gatewayCommands(): Command {
  return new Command('gateway')
    .description('the gateways that receipts wait for')
    .addCommand(
      command('list', 'list them').action(
        withApi(async ({ api, output }) => {
          const list = await api.get<GatewayList>('/v1/gateways')
          const rows = list.gateways.map((each) => [
            each.gatewayId,
            plain(each.region),
            each.live ? each.freshness : output.paint('yellow', 'silent'),
            String(each.keys),
            clock(each.at),
          ])
          output.result(list, () =>
            rows.length === 0 ? 'no gateways' : table(['gateway', 'region', 'state', 'keys', 'heard of'], rows),
          )
        }),
      ),
    )
    .addCommand(
      new Command('auth')
        .description(
          'run the server that nginx, Caddy or HAProxy ask about a key; its settings are the KEYTURN_GATEWAY_… of gateway/README.md',
        )
        .action(async () => {
          process.argv.splice(2, process.argv.length, 'auth')
          await import('../gateway/src/main.ts')
        }),
    )
    .addCommand(
      command('gone', 'declare that one will not come back: no receipt waits for it any longer')
        .argument('<gateway>')
        .requiredOption('--reason <text>', 'for the audit log')
        .action(
          withApi(async ({ api, output }, gatewayId: string, { reason }: { reason: string }) => {
            const answer = await api.post<object>(`/v1/gateways/${encodeURIComponent(gatewayId)}/gone`, { reason })
            output.result(answer, () => `${gatewayId} is declared gone`)
          }),
        ),
    )
}
