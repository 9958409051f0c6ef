/** Leaks as the registry, the API and the command line speak of them. No schemas here: the command line imports this file. */

/** What a reported token turned out to be: a key that is accepted; the old key of a running rotation; one that no gateway accepts any more; none of ours. */
export const LEAK_MATCHES = ['live', 'old', 'dead', 'unknown'] as const
export type LeakMatch = (typeof LEAK_MATCHES)[number]

export const LEAK_STATUSES = ['open', 'responding', 'closed'] as const
export type LeakStatus = (typeof LEAK_STATUSES)[number]

/** What is done: the key is compromised at once; it is replaced and dies at the end of a short overlap; or it needed nothing. */
export const LEAK_RESPONSES = ['at-once', 'overlap', 'none'] as const
export type LeakResponse = (typeof LEAK_RESPONSES)[number]
