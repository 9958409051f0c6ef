/**
 * What the reverse proxy asks of a key by path and method. Proxy and API may not agree on what a path is; so one that can be read in more than one way is
 * on all routes.
 */
import { isScope } from '@keyturn/contract'

export interface Route {
  /** In capitals; nothing: whatever the method. */
  readonly method?: string
  /** What paths begin with. */
  readonly path: string
  readonly scope: string
}

interface Asking {
  readonly method?: string | undefined
  readonly headers: Readonly<Record<string, unknown>>
}

/** No pattern: what would be one elsewhere (`:id`, `*`) is refused. */
const ROUTE = /^(?:([A-Z]+) +)?(\/[\w.@~/-]*)=(\S+)$/
/** Some APIs take the method from one of them. */
const OVERRIDES = ['x-http-method-override', 'x-method-override', 'x-http-method']
/**
 * Segments that are not empty, but for the last, nor `.` or `..`; without parameters (`;`), backslashes, or what is encoded without need, or with a meaning:
 * letters, digits, `-._~/\;%` and what can not be seen.
 */
const PLAIN =
  /^(?:\/(?![.]{1,2}(?:\/|$))(?:[\w!$&'()*+,.:=@~-]|%(?:2[0-46-9a-d]|3[ac-f]|40|5[bde]|60|7[b-d]|[89a-f][0-9a-f]))+)*\/?$/i

/** `POST /orders=orders:write`. Nothing for what is none. */
export function parseRoute(text: string): Route | undefined {
  const [, method, path = '', scope = ''] = ROUTE.exec(text) ?? []
  if (path === '' || !isScope(scope)) return undefined
  return { ...(method === undefined ? {} : { method }), path, scope }
}

/** @returns the scopes that a request needs: those of all routes that it may be on, beside those of any request */
export function createScopesOf(
  ofAny: readonly string[] = [],
  routes: readonly Route[] = [],
): (path: string, request: Asking) => readonly string[] {
  if (routes.length === 0) return () => ofAny
  const known = routes.map((route) => ({ ...route, path: route.path.toLowerCase().replace(/\/+$/, '') }))
  return (path, { method, headers }) => {
    const bare = path.split(/[?#]/, 1)[0] ?? ''
    const plain = PLAIN.test(bare) ? bare.toLowerCase() : undefined
    const overridden = OVERRIDES.some((name) => headers[name] !== undefined)
    const isOf = (route: Route): boolean =>
      overridden || route.method === undefined || route.method === method || (route.method === 'GET' && method === 'HEAD')
    const asking = known.filter((route) => isOf(route) && (plain === undefined || plain.startsWith(route.path)))
    return [...new Set([...ofAny, ...asking.map(({ scope }) => scope)])]
  }
}
