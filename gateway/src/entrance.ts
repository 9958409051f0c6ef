/** The one way in for all requests: those that show a token, and those that are signed. */
import type { Authenticate } from './authenticate.ts'
import type { AuthenticateSigned } from './signatures/authenticate.ts'
import { wayOf } from './signatures/shown.ts'

export const createEntrance =
  (shown: Authenticate, signed: AuthenticateSigned): Authenticate =>
  (request, scopes = []) => {
    const way = wayOf(request.headers)
    return way === 'none' ? shown(request, scopes) : signed(request, way, scopes)
  }
