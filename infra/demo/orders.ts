/** What a drill and the run that it drills on say to each other: a line of JSON each way. */
import { join } from 'node:path'
import type { ServiceName } from '../stack/index.ts'

export type Order =
  /** Comes first: which servers this is about. */
  | { readonly do: 'begin'; readonly servers: readonly ServiceName[] }
  | { readonly do: 'stop' | 'start'; readonly server: ServiceName }
  /** PostgreSQL: copies all its data, as it is now; and goes back to that. */
  | { readonly do: 'back-up' | 'restore' }
  | { readonly do: 'restart'; readonly process: string; readonly variables: Readonly<Record<string, string>> }
  /** What was restored and restarted stays so. */
  | { readonly do: 'keep' }
  /** Everything else is put back. */
  | { readonly do: 'end' }

/** Empty when the order is carried out. */
export interface Answer {
  readonly error?: string
}

/** Where a run listens; only its user can reach it. @param runDirectory what the file `owner` beside `local.json` holds */
export const controlSocket = (runDirectory: string): string => join(runDirectory, 'drill', 'socket')
