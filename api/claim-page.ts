/**
 * A page on which a person fetches a key: with the claim that stands behind the `#` of the link, which no server and no log sees; or, of a
 * rotation whose old key is a bearer that opens the way, by showing that. No other key is asked for: one that signs must never leave its place.
 * To open it hands out nothing.
 */
import { createHash } from 'node:crypto'
import type { FastifyReply } from 'fastify'
import Type from 'typebox'
import { byOldKey } from '../registry/by-old-key.ts'
import { CLAIM_PAGE_SCRIPT } from './claim-page-script.ts'
import type { ApiDeps } from './ports.ts'
import type { Api } from './routes.ts'
import { Input, Problems, RotationIdSchema } from './schemas.ts'

const STYLE = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 38rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
button { font: inherit; padding: .4rem 1rem }
input, textarea { font: inherit; box-sizing: border-box; width: 100%; padding: .4rem; margin: .3rem 0 1rem }
code { display: block; overflow-wrap: anywhere; user-select: all; padding: .8rem; margin: 0 0 1rem; border: 1px solid GrayText; font-size: .95rem }
.bad { color: light-dark(#a40000, #ff9a8a) }
[hidden] { display: none }
`

const OLD_KEY = `<div id="old" hidden><label for="oldKey">The key that is being replaced</label>
<input id="oldKey" type="password" autocomplete="off" spellcheck="false" autocapitalize="off"></div>`

/** Of links that hold no claim, where no key is to be shown either. */
const ELSEWHERE = `<div id="elsewhere" hidden><p>This link holds no claim, and the key that is being replaced does not open the way to the new one here.
Do not enter it anywhere.</p>
<p>Programs with the library or the agent fetch the new key by themselves while the old one is good. Otherwise get a claim where you sign in at your provider, or ask
your provider for one.</p></div>`

const page = (way: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex, nofollow">
<title>Fetch your new key</title>
<style>${STYLE}</style>
</head>
<body>
<h1>Fetch your new key</h1>
<noscript><p>This page needs JavaScript. A POST to /v1/claims/ and the code of your link does the same.</p></noscript>
${way}
<div id="ask" hidden><p>The key is handed out once. Have a safe place ready for it.</p><button id="fetch" type="button">Show the key</button></div>
<div id="make" hidden><label for="publicKey">The public half of your Ed25519 key: PEM, or 32 bytes in base64</label>
<textarea id="publicKey" rows="4" autocomplete="off" spellcheck="false"></textarea><button id="enrol" type="button">Enrol it</button></div>
<div id="shown" hidden><p id="about"></p><div id="secret"><code id="token"></code><button id="copy" type="button">Copy</button></div></div>
<p id="said" role="status"></p>
<script>${CLAIM_PAGE_SCRIPT}</script>
</body>
</html>
`
const PAGE = page(ELSEWHERE)
const PAGE_FOR_OLD_KEY = page(OLD_KEY)

const hashOf = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

const HEADERS = {
  'cache-control': 'no-store',
  'content-security-policy': [
    "default-src 'none'",
    `script-src ${hashOf(CLAIM_PAGE_SCRIPT)}`,
    `style-src ${hashOf(STYLE)}`,
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ].join('; '),
  'cross-origin-opener-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'x-robots-tag': 'noindex, nofollow',
}

const schema = {
  security: [],
  response: { 200: { description: 'the page', content: { 'text/html': { schema: Type.String() } } }, ...Problems },
}

export function claimPageRoutes(api: Api, { db }: Pick<ApiDeps, 'db'>): void {
  const send = (reply: FastifyReply, html: string) =>
    reply.headers(HEADERS).type('text/html; charset=utf-8').serializer(String).send(html)
  api.get(
    '/claim',
    {
      schema: {
        ...schema,
        operationId: 'claimPage',
        summary: 'A page to fetch a key on, with the claim behind the #',
      },
    },
    async (_request, reply) => send(reply, PAGE),
  )
  api.get(
    '/claim/:id',
    {
      schema: {
        ...schema,
        operationId: 'claimPageOfRotation',
        summary:
          'The same page, for links that name a rotation: it asks for the old key where that is a bearer that opens the way',
        params: Input({ id: RotationIdSchema }),
      },
    },
    async (request, reply) => {
      const sent = (await byOldKey(db, request.params.id)) === 'sent'
      return send(reply, sent ? PAGE_FOR_OLD_KEY : PAGE)
    },
  )
}
