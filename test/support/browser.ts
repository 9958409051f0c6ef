/** A real browser, where there is one: Debian's chromium. */
import { type Browser, chromium } from 'playwright-core'
import { findOnPath } from '../../infra/stack/tools.ts'

/** Where it is; nothing where there is none, and tests that need it say so. */
export const browserAt: string | undefined = findOnPath('chromium') ?? findOnPath('google-chrome')

/** In a container a browser can not make its sandbox. */
export async function openBrowser(): Promise<Browser> {
  if (browserAt === undefined) throw new Error('there is no browser here: apt-get install chromium')
  return chromium.launch({ executablePath: browserAt, args: ['--no-sandbox', '--disable-dev-shm-usage'] })
}
