/** Writes the files that other languages read: `schemas/*.json` and `asyncapi.json`. Run by `npm run generate`. */
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { pathToFileURL } from 'node:url'
import packageJson from '../package.json' with { type: 'json' }
import { asyncApiDocument, jsonSchemas } from '../src/asyncapi.ts'

const room = new URL('../', import.meta.url)

/** Every generated file: its path below `contract/`, and its text. */
export const generatedFiles = (): { readonly [path: string]: string } =>
  Object.fromEntries(
    [
      ...Object.entries(jsonSchemas()).map(([name, schema]) => [`schemas/${name}.json`, schema] as const),
      ['asyncapi.json', asyncApiDocument(packageJson.version)] as const,
    ].map(([path, document]) => [path, `${JSON.stringify(document, null, 2)}\n`]),
  )

/** Writes them, and removes schemas that are no longer made. */
async function generate(): Promise<void> {
  const files = generatedFiles()
  await mkdir(new URL('schemas/', room), { recursive: true })
  for (const name of await readdir(new URL('schemas/', room))) {
    if (files[`schemas/${name}`] === undefined) await rm(new URL(`schemas/${name}`, room))
  }
  for (const [path, text] of Object.entries(files)) await writeFile(new URL(path, room), text)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await generate()
