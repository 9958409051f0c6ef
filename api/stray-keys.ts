/** Keys where they do not belong: in a reason that quotes one, in a user agent. Such texts are kept, so they are refused or cut (G5). */
import { holdsKey, WHOLE_KEY } from '@keyturn/contract'
import { ApiError, type FieldError } from './problems.ts'
import type { Api } from './routes.ts'

/** A text that somebody else wrote, fit to be kept. */
export const withoutKeys = (text: string): string => (holdsKey(text) ? '[removed: looks like a key]' : text)

interface KeptTexts {
  readonly name?: string
  readonly reason?: string
  readonly contacts?: readonly { readonly url?: string; readonly address?: string }[]
}

/** Refuses a key in what people write into requests and what is then stored, shown and sent on. */
export function refuseStrayKeys(api: Api): void {
  api.addHook('preHandler', async ({ body }) => {
    const { name = '', reason = '', contacts = [] } = (body ?? {}) as KeptTexts
    const flaws: FieldError[] = []
    for (const [path, text] of Object.entries({ '/name': name, '/reason': reason })) {
      if (holdsKey(text)) flaws.push({ path, message: 'holds something that looks like a key' })
    }
    for (const [i, { url = '', address = '' }] of contacts.entries()) {
      // Addresses of webhooks may well hold secrets of their own, of any kind.
      if (holdsKey(address)) flaws.push({ path: `/contacts/${i}/address`, message: 'holds something that looks like a key' })
      if (WHOLE_KEY.test(url)) flaws.push({ path: `/contacts/${i}/url`, message: 'holds a key' })
    }
    if (flaws.length > 0) throw new ApiError('invalid-request', 'Leave the key out: this is kept, and others read it.', flaws)
  })
}
