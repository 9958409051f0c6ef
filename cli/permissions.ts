import { type Command, Option } from 'commander'
import { command, withApi } from './context.ts'
import { readDeliveryFile } from './delivery.ts'
import { collectWords } from './options.ts'

interface UpdateOptions {
  readonly scope?: readonly string[]
  readonly address?: readonly string[]
  readonly method?: readonly string[]
  readonly anyAddress?: true
  readonly anyMethod?: true
  readonly sequence?: 'required' | 'none'
  readonly delivery?: string
  readonly reason?: string
}

interface Changed {
  readonly credentialId: string
  readonly scopes: readonly string[]
  readonly allow?: { readonly addresses?: readonly string[]; readonly methods?: readonly string[]; readonly sequence?: string }
  readonly delivery: { readonly method: string }
  readonly receipts: readonly { readonly unconfirmed: readonly string[] }[]
  readonly propagated: boolean
}

type List = readonly string[] | null | undefined

/** Nothing where nothing is given; null takes a restriction away. */
export const restriction = (addresses: List, methods: List, sequence: string | null | undefined): object =>
  [addresses, methods, sequence].every((part) => part === undefined) ? {} : { allow: { addresses, methods, sequence } }

export const permissionsCommand = (): Command =>
  command('update', 'change what its keys may do, from where, and how they reach the client; each list is replaced as a whole')
    .argument('<credential>')
    .option('--scope <scope>', 'what its keys may do; may be given more than once, or with commas', collectWords)
    .option('--address <block>', 'from where alone: an address or a CIDR block; may be given more than once', collectWords)
    .option('--method <method>', 'with which HTTP methods alone; may be given more than once', collectWords)
    .addOption(new Option('--any-address', 'from anywhere').conflicts('address'))
    .addOption(new Option('--any-method', 'with any method').conflicts('method'))
    .addOption(
      new Option('--sequence <sequence>', 'of keys that sign: whether every request has to be numbered').choices([
        'required',
        'none',
      ]),
    )
    .option('--delivery <file>', 'how its new keys reach the client: a JSON file, as docs/delivery.md has it')
    .option('--reason <text>', 'for the audit log')
    .action(
      withApi(async ({ api, output }, credentialId: string, options: UpdateOptions) => {
        const addresses = options.anyAddress ? null : options.address
        const methods = options.anyMethod ? null : options.method
        const sequence = options.sequence === 'none' ? null : options.sequence
        const delivery = options.delivery === undefined ? undefined : await readDeliveryFile(options.delivery)
        const body = { scopes: options.scope, ...restriction(addresses, methods, sequence), delivery, reason: options.reason }
        const changed = await api.patch<Changed>(`/v1/credentials/${encodeURIComponent(credentialId)}`, body)
        output.result(changed, () =>
          [
            `${changed.credentialId}  ${changed.receipts.length === 0 && delivery === undefined ? 'as it was' : 'changed'}`,
            `scopes      ${changed.scopes.join(' ')}`,
            `addresses   ${changed.allow?.addresses?.join(' ') ?? 'any'}`,
            `methods     ${changed.allow?.methods?.join(' ') ?? 'any'}`,
            ...(changed.allow?.sequence === undefined ? [] : [`sequence    ${changed.allow.sequence}`]),
            `delivery    ${changed.delivery.method}`,
          ].join('\n'),
        )
        const missing = [...new Set(changed.receipts.flatMap(({ unconfirmed }) => unconfirmed))]
        if (!changed.propagated) {
          output.note(
            missing.length === 0
              ? 'No gateway has been told yet; it follows by itself.'
              : `Not told yet: ${missing.join(', ')}; it follows by itself.`,
          )
        }
      }),
    )
