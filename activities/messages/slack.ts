/** A letter as the body of a Slack-compatible incoming webhook: blocks, and the same as text for whoever shows no blocks. */
import type { Letter } from './letter.ts'

/** What Slack takes of a header, and of the text of a section. */
const LONGEST_HEADER = 150
const LONGEST_SECTION = 3_000

export interface SlackMessage {
  readonly text: string
  readonly blocks: readonly object[]
}

/** Only these three mean something to Slack wherever they stand; nothing of ours is to mention anybody. */
const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
/** Bold, struck out, code: not in what others have written. */
const bare = (text: string): string => escaped(text).replace(/[*_~`]/g, '\u200b$&')

const section = (text: string) => ({ type: 'section', text: { type: 'mrkdwn', text: text.slice(0, LONGEST_SECTION) } })

const buttonOf = ({ text, url }: Letter['links'][number], i: number) => ({
  type: 'button',
  text: { type: 'plain_text', text, emoji: false },
  url,
  ...(i === 0 ? { style: 'primary' } : {}),
})

export function slackMessageOf({ subject, lead, facts, whatToDo, steps, links, lists, footer }: Letter): SlackMessage {
  const header = subject.length > LONGEST_HEADER ? `${subject.slice(0, LONGEST_HEADER - 1)}…` : subject
  const todo = steps.map((step, i) => (steps.length > 1 ? `${i + 1}. ${bare(step)}` : bare(step)))
  return {
    text: escaped(`${subject}\n${lead}`),
    blocks: [
      { type: 'header', text: { type: 'plain_text', text: header, emoji: false } },
      section(bare(lead)),
      {
        type: 'section',
        fields: facts.slice(0, 10).map(([label, value]) => ({ type: 'mrkdwn', text: `*${bare(label)}*\n${bare(value)}` })),
      },
      section(`*${bare(whatToDo)}*\n${todo.join('\n')}`),
      ...(links.length === 0 ? [] : [{ type: 'actions', elements: links.map(buttonOf) }]),
      ...lists.map(({ title, items }) => section(`*${bare(title)}*\n${items.map((item) => `• ${bare(item)}`).join('\n')}`)),
      { type: 'context', elements: [{ type: 'plain_text', text: footer, emoji: false }] },
    ],
  }
}
