/** Claims, as the provider gives them to its clients. They are printed on standard output and nowhere else. */
import type { KeyKind } from '@keyturn/contract/key-kind'
import type { Command } from 'commander'
import { command, withApi } from './context.ts'

interface Claim {
  readonly kind: KeyKind
  readonly claimUrl: string
  readonly claimPage?: string | undefined
  /** Absent while it waits for its rotation. */
  readonly claimExpiresAt?: string | undefined
}

/** What the client has to do with the address of its claim. */
const CLAIMING: { readonly [kind in KeyKind]: string } = {
  bearer: 'a POST to it hands out the secret, once,',
  'hmac-sha256': 'a POST to it hands out the token that it signs requests with (and never sends), once,',
  ed25519: `a POST of {"publicKey": "…"} to it enrols the public half of a pair that it makes itself, once,`,
}

export const claimText = ({ kind, claimUrl, claimPage, claimExpiresAt }: Claim): string =>
  [
    `Give the client this address; ${CLAIMING[kind]} ${claimExpiresAt === undefined ? 'while the rotation runs' : `until ${claimExpiresAt}`}:`,
    claimUrl,
    `In a browser: ${claimPage}`,
  ].join('\n')

export const claimCommand = (): Command =>
  command('claim', "show the claim of a rotation's new key, to give it to the client once you know that it is the client")
    .argument('<rotation>')
    .requiredOption('--reason <text>', 'for the audit log')
    .action(
      withApi(async ({ api, output }, rotationId: string, { reason }: { reason: string }) => {
        const shown = await api.post<Claim>(`/v1/rotations/${encodeURIComponent(rotationId)}/claim`, { reason })
        output.result(shown, () => claimText(shown))
      }),
    )
