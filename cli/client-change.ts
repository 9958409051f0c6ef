/** A change of how a client is told, made or only shown. */
import type { Language, QuietHours, Tell } from '@keyturn/contract/channels'
import { addressOf, type ClientAnswer, type Contact, pathOf } from './client-answer.ts'
import type { Context } from './context.ts'
import { type Output, plain } from './output.ts'

export interface ClientChange {
  readonly name?: string
  readonly contacts?: readonly Contact[]
  readonly language?: Language
  readonly timeZone?: string
  /** null: none any more. */
  readonly quietHours?: QuietHours | null
  readonly tell?: Tell
}

/** What the API takes; it answers more. */
export const contactOf = ({ channel, url, address }: Contact): Contact => ({
  channel,
  ...(url === undefined ? {} : { url }),
  ...(address === undefined ? {} : { address }),
})

/** Not changed with `dryRun`; whether the API takes it is then not known. */
export async function changeClient(
  { api, output }: Context,
  before: ClientAnswer,
  change: ClientChange,
  dryRun: boolean,
): Promise<void> {
  if (dryRun) {
    const lines = changedLines(before, { ...before, ...change }, output)
    const shown = lines.length === 0 ? 'it would be as it is' : `it would be:\n${lines.join('\n')}`
    return output.result({ dryRun, clientId: before.clientId, change }, () => `Nothing was changed; ${shown}`)
  }
  const after = await api.patch<ClientAnswer>(pathOf(before.clientId), change)
  const lines = changedLines(before, after, output)
  output.result(after, () => [`${after.clientId}  ${lines.length === 0 ? 'as it was' : 'changed'}`, ...lines].join('\n'))
  const disabled = before.contacts.filter(({ disabledAt }) => disabledAt !== undefined).length
  if (change.contacts !== undefined && disabled > 0) output.note('Contacts that had been disabled are tried again.')
}

type How = Omit<ClientChange, 'contacts'> & { readonly contacts: readonly Contact[] }

const nameOf = (contact: Contact): string => `${contact.channel}  ${addressOf(contact)}`

function changedLines(before: How, after: How, output: Output): string[] {
  const fields = (['name', 'language', 'timeZone', 'quietHours', 'tell'] as const).flatMap((field) => {
    const [was, is] = [textOf(before[field]), textOf(after[field])]
    return was === is ? [] : [`${field}: ${output.paint('red', was)} → ${output.paint('green', is)}`]
  })
  const [old, now] = [before.contacts.map(nameOf), after.contacts.map(nameOf)]
  if (old.join('\n') === now.join('\n')) return fields
  // All of those that are there now: their order is the one in which they are tried.
  const kept = now.map((name) => (old.includes(name) ? `= ${name}` : output.paint('green', `+ ${name}`)))
  const gone = old.filter((name) => !now.includes(name)).map((name) => output.paint('red', `- ${name}`))
  return [...fields, ...kept, ...gone]
}

function textOf(value: string | QuietHours | null | undefined): string {
  if (value === null || value === undefined) return 'none'
  return typeof value === 'string' ? plain(value) : `${value.from}-${value.to}`
}
