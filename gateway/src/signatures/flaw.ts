/** What is wrong with how a request is signed, for whoever signs: visible without any key, so it says nothing of keys. */
export class Flaw {
  readonly detail: string

  constructor(detail: string) {
    this.detail = detail
  }
}
