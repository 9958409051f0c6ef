/** A letter as an e-mail: plain text, and HTML that is readable on dark and on light ground. */
import type { Letter } from './letter.ts'

export interface Email {
  readonly subject: string
  readonly text: string
  readonly html: string
}

const WIDTH = 76

export function emailOf(letter: Letter): Email {
  return { subject: letter.subject, text: textOf(letter), html: htmlOf(letter) }
}

function textOf({ lead, facts, whatToDo, steps, links, lists, footer }: Letter): string {
  const widest = Math.max(...facts.map(([label]) => label.length))
  const parts = [
    wrapped(lead),
    facts.map(([label, value]) => `${`${label}:`.padEnd(widest + 2)}${value}`).join('\n'),
    `${whatToDo}:\n${steps.map((step, i) => wrapped(step, steps.length > 1 ? `${i + 1}. ` : '- ')).join('\n')}`,
    ...links.map(({ text, url, hint }) => `${text}:\n${url}${hint === undefined ? '' : `\n${wrapped(hint)}`}`),
    ...lists.map(({ title, items }) => `${title}:\n${items.map((item) => `- ${item}`).join('\n')}`),
    `-- \n${wrapped(footer)}`,
  ]
  return `${parts.join('\n\n')}\n`
}

function wrapped(text: string, mark = ''): string {
  const lines: string[] = []
  let line = mark
  for (const word of text.split(' ')) {
    if (line.trim() !== mark.trim() && line.length + word.length + 1 > WIDTH) {
      lines.push(line)
      line = ' '.repeat(mark.length) + word
    } else line += line === '' || line === mark ? word : ` ${word}`
  }
  return [...lines, line].join('\n')
}

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

/** Mail programs that know nothing of dark ground show the first colours, on white. */
const STYLE = `
:root { color-scheme: light dark; supported-color-schemes: light dark; }
body { margin: 0; padding: 24px; background: #ffffff; color: #1a1a1a; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 640px; margin: 0 auto; }
h1 { font-size: 20px; line-height: 1.3; } h2 { font-size: 16px; margin: 24px 0 8px; }
th { text-align: left; font-weight: normal; color: #555555; padding: 2px 16px 2px 0; vertical-align: top; }
a.button { display: inline-block; padding: 10px 18px; border-radius: 6px; background: #0b57d0; color: #ffffff; text-decoration: none; }
li { overflow-wrap: anywhere; } small, .hint { color: #555555; font-size: 14px; }
@media (prefers-color-scheme: dark) {
  body { background: #16181c; color: #eceff4; } th, small, .hint { color: #b3b9c4; }
  a { color: #8ab4f8; } a.button { background: #8ab4f8; color: #10131a; }
}`

function htmlOf({ language, subject, lead, facts, whatToDo, steps, links, lists, footer }: Letter): string {
  const items = (texts: readonly string[]) => texts.map((text) => `<li>${escaped(text)}</li>`).join('\n')
  const list = steps.length > 1 ? 'ol' : 'ul'
  const rows = facts.map(([label, value]) => `<tr><th scope="row">${escaped(label)}</th><td>${escaped(value)}</td></tr>`)
  const buttons = links.map(
    ({ text, url, hint }) => `<p><a class="button" href="${escaped(url)}">${escaped(text)}</a></p>
${hint === undefined ? '' : `<p class="hint">${escaped(hint)}</p>\n`}`,
  )
  return `<!doctype html>
<html lang="${language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<title>${escaped(subject)}</title>
<style>${STYLE}
</style>
</head>
<body>
<main>
<h1>${escaped(subject)}</h1>
<p>${escaped(lead)}</p>
<table>
${rows.join('\n')}
</table>
<h2>${escaped(whatToDo)}</h2>
<${list}>
${items(steps)}
</${list}>
${buttons.join('')}${lists.map(({ title, items: texts }) => `<h2>${escaped(title)}</h2>\n<ul>\n${items(texts)}\n</ul>\n`).join('')}<p><small>${escaped(footer)}</small></p>
</main>
</body>
</html>
`
}
