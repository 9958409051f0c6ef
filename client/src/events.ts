/** What a program may want to log or count. Nothing here holds a secret. */
export type ClientEvent =
  /** The successor is in the store: this process, of all that share it, has claimed it. */
  | { readonly type: 'claimed'; readonly keyId: string }
  /** This process has a new current key. */
  | { readonly type: 'adopted'; readonly keyId: string }
  /** The current key was refused and another one accepted. */
  | { readonly type: 'fell-back'; readonly keyId: string; readonly refused: string }
  /** No successor: `code` is a problem code of the API (docs: `contract/README.md`). Tried again when a notice comes after `until`. */
  | { readonly type: 'claim-refused'; readonly code: string; readonly until: Date }
  /** The API does not answer as it should; tried again. */
  | { readonly type: 'claim-delayed'; readonly detail: string; readonly again: Date }
  | { readonly type: 'store-failed'; readonly code: string; readonly message: string }

export type Listener = (event: ClientEvent) => void
