/** A claim that a provider has sent: its code, or an address that ends with it. */

const CODE = /^[0-9A-Za-z]{43}$/

/** The last part of an address, be it in the path or after the number sign. @throws TypeError, which never holds it */
export function readClaimCode(urlOrCode: string): string {
  const code = urlOrCode.split(/[/#]/).at(-1) ?? ''
  if (!CODE.test(code)) throw new TypeError('there is no claim code in it: copy it as a whole')
  return code
}
