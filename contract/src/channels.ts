/** How clients are told. No Node modules here: workflows import this file. */

export const CHANNELS = ['webhook', 'email', 'slack'] as const
export type Channel = (typeof CHANNELS)[number]

/** In which people are written to. */
export const LANGUAGES = ['en', 'de'] as const
export type Language = (typeof LANGUAGES)[number]

/** Whom a message goes to: the first contact that can be reached, or every one. What is urgent goes to every one. */
export const TELL = ['first', 'all'] as const
export type Tell = (typeof TELL)[number]

/** When reminders wait: from one time of the day to another in the client's time zone, `22:00` to `07:00`. */
export interface QuietHours {
  readonly from: string
  readonly to: string
}
export const TIME_OF_DAY_PATTERN = '^([01][0-9]|2[0-3]):[0-5][0-9]$'
