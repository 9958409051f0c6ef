/** Between bytes and text, with what every runtime has. */

export type Bytes = Uint8Array<ArrayBuffer>

const encoder = new TextEncoder()

export const utf8 = (text: string): Bytes => encoder.encode(text) as Bytes

export function base64(bytes: Uint8Array): string {
  let binary = ''
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary)
}

export const base64Url = (bytes: Uint8Array): string => base64(bytes).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')

/** @throws DOMException when it is not base64 */
export const fromBase64 = (text: string): Bytes => Uint8Array.from(atob(text), (digit) => digit.charCodeAt(0))

export const sha256 = async (bytes: Bytes): Promise<Bytes> => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))

export const randomBytes = (length: number): Bytes => crypto.getRandomValues(new Uint8Array(length))
