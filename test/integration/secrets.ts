/** The secrets of a run, and the search for them in every form that they might have been left in. */
import type { Found } from './places.ts'

export class Secrets {
  private readonly needles = new Map<string, readonly Buffer[]>()

  /** @param what says of a find what it is; the secret itself is never shown */
  add(what: string, secret: string | Buffer): void {
    const bytes = Buffer.from(secret)
    const forms = [bytes, ...(['base64', 'base64url', 'hex'] as const).map((encoding) => Buffer.from(bytes.toString(encoding)))]
    forms.push(Buffer.from(bytes.toString('hex').toUpperCase()), Buffer.from(encodeURIComponent(bytes.toString('latin1'))))
    this.needles.set(`${what} (${this.needles.size})`, forms)
  }

  /** A token, and the part of it that is enough to use it. */
  addToken(what: string, token: string): void {
    this.add(what, token)
    this.add(`secret part of ${what}`, (token.split('_').at(-1) ?? '').slice(0, 43))
  }

  get count(): number {
    return this.needles.size
  }

  /** @returns what was found where, a line each */
  search(places: readonly Found[]): string[] {
    const finds = new Set<string>()
    for (const { place, bytes } of places) {
      for (const [what, forms] of this.needles) if (forms.some((form) => bytes.includes(form))) finds.add(`${what} in ${place}`)
    }
    return [...finds]
  }
}
