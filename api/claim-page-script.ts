/**
 * What the claim page does, as plain JavaScript for any browser of the last years. Nothing happens before the button is pressed: link previews
 * open pages, too. The secret travels encrypted to a key pair that the page makes and forgets, so that the button may be pressed again
 * when an answer was lost.
 */
export const CLAIM_PAGE_SCRIPT = `'use strict'
;(() => {
  const part = (id) => document.getElementById(id)
  const base = location.pathname.replace(/[/]claim(?:[/][^/]*)?[/]?$/, '')
  const fragment = location.hash.slice(1)
  const code = /^[0-9A-Za-z]{43}$/.test(fragment) ? fragment : undefined
  const subtle = globalThis.crypto?.subtle
  // There only where it may be shown.
  const oldKey = part('oldKey')
  let pair

  const say = (text, bad = false) => {
    part('said').textContent = text
    part('said').className = bad ? 'bad' : ''
  }
  const show = (...ids) => {
    for (const id of ['ask', 'old', 'elsewhere', 'make', 'shown']) if (part(id)) part(id).hidden = !ids.includes(id)
  }
  // A key that is sent is one word. PEM, a JSON Web Key and the bare PKCS #8 of an Ed25519 key are private keys, which sign.
  const isSent = (key) => /^[!-~]+$/.test(key) && !/^(?:[{"]|M[CF][0-9A-Za-z]CAQ[AE]w)/.test(key)
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0))
  const number = (n) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255]

  async function recipient() {
    if (subtle === undefined) return undefined
    pair ??= await subtle.generateKey({ name: 'ECDH', namedCurve: 'P-256' }, false, ['deriveBits'])
    const { kty, crv, x, y } = await subtle.exportKey('jwk', pair.publicKey)
    return { kty, crv, x, y }
  }

  // RFC 7516, with ECDH-ES (RFC 7518, 4.6) and A256GCM.
  async function decrypt(jwe) {
    const [head, , iv, text, tag] = jwe.split('.')
    const { alg, enc, epk } = JSON.parse(new TextDecoder().decode(bytes(head)))
    if (alg !== 'ECDH-ES' || enc !== 'A256GCM') throw new Error('not an answer to this page')
    const theirs = await subtle.importKey('jwk', { kty: 'EC', crv: 'P-256', x: epk.x, y: epk.y }, { name: 'ECDH', namedCurve: 'P-256' }, false, [])
    const agreed = new Uint8Array(await subtle.deriveBits({ name: 'ECDH', public: theirs }, pair.privateKey, 256))
    const name = new TextEncoder().encode(enc)
    const input = [...number(1), ...agreed, ...number(name.length), ...name, ...number(0), ...number(0), ...number(256)]
    const raw = await subtle.digest('SHA-256', Uint8Array.from(input))
    const key = await subtle.importKey('raw', raw, 'AES-GCM', false, ['decrypt'])
    const opened = await subtle.decrypt(
      { name: 'AES-GCM', iv: bytes(iv), additionalData: new TextEncoder().encode(head) },
      key,
      Uint8Array.from([...bytes(text), ...bytes(tag)]),
    )
    return new TextDecoder().decode(opened)
  }

  async function fetchKey(body, asItIs = false) {
    const old = oldKey === null ? '' : oldKey.value.trim()
    if (code === undefined && old === '') return say('Enter the key that is being replaced.', true)
    if (code === undefined && !isSent(old)) {
      oldKey.value = ''
      return say('This is no key that is sent with requests, so it has not been sent from here either. A private key signs, and never leaves its place.', true)
    }
    const path = code === undefined ? '/v1/successor' : '/v1/claims/' + code
    say('Asking …')
    let answer
    try {
      answer = await fetch(base + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...(code === undefined ? { authorization: 'Bearer ' + old } : {}) },
        body: JSON.stringify(body),
        cache: 'no-store',
        credentials: 'omit',
        redirect: 'error',
      })
    } catch {
      return say('There was no answer. Press the button again: this page can fetch the key again for ten minutes.', true)
    }
    const said = await answer.json().catch(() => ({}))
    if (!answer.ok) {
      // Its keys are encrypted to one key alone, which is not this page's.
      if (said.code === 'recipient-refused' && !asItIs) return fetchKey({}, true)
      const wrong = (said.errors ?? []).map(({ path }) => path)
      if (code !== undefined && (wrong.includes('/recipient') || (wrong.includes('/publicKey') && body.publicKey === undefined))) {
        show('make')
        return say('Of this key the client makes the secret itself.')
      }
      return say((said.title ?? 'The request was refused') + '. ' + (said.detail ?? ''), true)
    }
    const { jwe, token, keyId, sunsetAt } = said
    const secret = jwe === undefined ? token : asItIs ? jwe : await decrypt(jwe)
    history.replaceState(null, '', location.pathname)
    if (oldKey !== null) oldKey.value = ''
    show('shown')
    part('token').textContent = secret ?? ''
    part('secret').hidden = secret === undefined
    part('about').textContent =
      'Key ' + keyId + '.' + (sunsetAt === undefined ? '' : ' The old key may stop working after ' + new Date(sunsetAt).toLocaleString() + '.')
    if (asItIs) return say('This is your key, encrypted to the public key that is registered: decrypt it with the private half.')
    say(secret === undefined ? 'The public key is enrolled: sign with your key from now on.' : 'This is shown once. Put it where your program finds it, then close this page.')
  }

  async function press(button, body) {
    button.disabled = true
    try {
      await fetchKey(await body())
    } catch {
      say('This browser could not read the answer. Press the button again, or take another browser.', true)
    } finally {
      button.disabled = false
    }
  }
  const withRecipient = async () => {
    const to = await recipient()
    return to === undefined ? {} : { recipient: to }
  }

  part('fetch').addEventListener('click', ({ currentTarget }) => void press(currentTarget, withRecipient))
  oldKey?.addEventListener('keydown', ({ key }) => {
    if (key === 'Enter') part('fetch').click()
  })
  part('enrol').addEventListener('click', ({ currentTarget }) => void press(currentTarget, async () => ({ publicKey: part('publicKey').value.trim() })))
  part('copy').addEventListener('click', async () => {
    const text = part('token').textContent
    try {
      await navigator.clipboard.writeText(text)
      say('Copied. Put it where your program finds it, then close this page.')
    } catch {
      getSelection().selectAllChildren(part('token'))
      say('Selected: copy it with your keyboard.')
    }
  })
  addEventListener('pagehide', () => {
    part('token').textContent = ''
  })
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted) location.reload()
  })

  if (fragment !== '' && code === undefined) say('This link is not complete. Copy it as a whole.', true)
  else if (code === undefined && oldKey === null) show('elsewhere')
  else show('ask', ...(code === undefined ? ['old'] : []))
})()
`
