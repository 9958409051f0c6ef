/** Figures as Markdown: for the terminal, and for the blocks of README.md that they are written into. */
import { cpus, type as systemType, totalmem } from 'node:os'
import type { BaselineFigures } from './baselines.ts'
import type { ClientFigures, SwitchFigures } from './client.ts'
import type { FleetFigures } from './fleet.ts'
import { LEAK_STEPS, type LeakFigures } from './leaks.ts'
import type { LoadFigures } from './load.ts'
import type { NotificationFigures } from './notifications.ts'
import type { PolicyFigures } from './policies.ts'
import type { ReplayFigures } from './replay.ts'
import type { RequestFigures } from './requests.ts'
import { type RevocationFigures, STEPS } from './revocation.ts'
import type { RotationFigures } from './rotations.ts'
import type { ScanFigures } from './scan.ts'
import type { SignatureFigures } from './signatures.ts'
import type { Distribution } from './statistics.ts'
import type { VerifyFigures } from './verify.ts'

/** What it was measured on; nothing that names the machine itself. */
export function machine(servers: readonly string[], at: Date): string {
  const processors = cpus()
  const model = processors[0]?.model.trim() ?? 'unknown processor'
  const memory = Math.round(totalmem() / 2 ** 30)
  const parts = [
    `${model}, ${processors.length} cores`,
    `${memory} GB`,
    systemType(),
    `Node.js ${process.versions.node}`,
    ...servers,
  ]
  return `_${at.toISOString().slice(0, 10)}: ${parts.join(' · ')}_`
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')
}

const us = (value: number): string => `${value.toFixed(2)} µs`
const ms = (value: number): string => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`
const times = (value: number): string => `${value.toFixed(2)}`
const count = (value: number): string => value.toLocaleString('en-US', { maximumFractionDigits: 0 })

/** Whether a figure is on the right side of its target. */
const judged = (value: number, target: { atMost: number } | { atLeast: number }): string => {
  const good = 'atMost' in target ? value <= target.atMost : value >= target.atLeast
  const words = 'atMost' in target ? `at most ${target.atMost}` : `at least ${target.atLeast}`
  return `**${times(value)}** (target: ${words}; ${good ? 'met' : 'MISSED'})`
}

export function requestsReport(figures: RequestFigures): string {
  const rows = [
    ['without the plugin', us(figures.us.bare)],
    ['with a hook that hashes the token and looks it up', us(figures.us.least)],
    ['**with the plugin**', us(figures.us.guarded)],
    ['with the plugin, every other token one that no key has', us(figures.us.unknown)],
    ['with the plugin, every other request with a made-up Ed25519 signature', us(figures.us.signature)],
    ['with the plugin, every other token a made-up session', us(figures.us.session)],
    [
      `a good one, while ${figures.attackers} connections of its address send made-up Ed25519 signatures`,
      us(figures.us.heldSignature),
    ],
    ['a good one, while they send made-up sessions', us(figures.us.heldSession)],
  ]
  return [
    table(
      ['one Fastify request, processor time of the server', `median of ${figures.rounds} rounds of ${count(figures.perRound)}`],
      rows,
    ),
    '',
    `- throughput with the plugin / without: ${judged(figures.ofBare, { atLeast: 0.9 })}`,
    `- throughput with the hook / without: ${figures.leastOfBare.toFixed(2)}`,
    `- good requests among as many tokens that no key has / among good ones: ${judged(figures.ofGood.unknown, { atLeast: 0.8 })}`,
    `- good requests beside a flood of made-up signatures / alone: ${judged(figures.ofGoodHeld.signature, { atLeast: 0.8 })}`,
    `- good requests beside a flood of made-up sessions / alone: ${judged(figures.ofGoodHeld.session, { atLeast: 0.8 })}`,
    `- among as many of these, with no limit: ${figures.ofGood.signature.toFixed(2)}, ${figures.ofGood.session.toFixed(2)}`,
  ].join('\n')
}

export function clientReport({ rounds, perRound, us: each, bearerOverBare, hmacOverBare }: ClientFigures): string {
  return [
    table(
      ['one request, both ends', `median of ${rounds} rounds of ${count(perRound)}`],
      [
        ['bare: `fetch` of Node', us(each.bare)],
        ['**Keyturn, bearer**', us(each.bearer)],
        ['**Keyturn, hmac-sha256, signed by RFC 9421**', us(each.hmac)],
      ],
    ),
    '',
    `- Keyturn, bearer / bare: ${judged(bearerOverBare, { atMost: 1.1 })}`,
    `- Keyturn, hmac-sha256 / bare: ${times(hmacOverBare)}`,
  ].join('\n')
}

export function switchReport({ processes, perSecond, rounds, toldMs, library, agent }: SwitchFigures): string {
  return [
    table(
      [`${processes} processes of a client, ${perSecond} requests a second`, `median of ${rounds} rotations`],
      [
        ['from published until answers tell of it (stage `monitoring`)', `${count(toldMs)} ms`],
        ['**from published until all use the new key: library in each, one store**', `${count(library.allMs)} ms`],
        ['**from published until all use the new key: one agent, a file and SIGHUP**', `${count(agent.allMs)} ms`],
      ],
    ),
    '',
    `- requests that failed: library **${library.failed}**, agent **${agent.failed}**`,
  ].join('\n')
}

export function verifyReport(figures: VerifyFigures): string {
  const rows = [
    ['bare: one SHA-256 in base64, one look-up in a Map', us(figures.us.floor)],
    ['**Keyturn, accepted**', us(figures.us.verify)],
    ['Keyturn, a well-formed token that no key has', us(figures.us.unknown)],
    ['prefixed-api-key: `checkAPIKey` alone, the stored hash at hand', us(figures.us.check)],
    ['prefixed-api-key with the look-up of the stored hash in a Map', us(figures.us.prefixed)],
  ]
  return [
    table([`one bearer request, ${count(figures.keys)} keys`, `median of ${figures.rounds} rounds`], rows),
    '',
    `- Keyturn / bare: ${judged(figures.overFloor, { atMost: 1.5 })}`,
    `- \`checkAPIKey\` alone / Keyturn with its look-up: ${judged(figures.fasterThanCheck, { atLeast: 2 })}`,
    `- prefixed-api-key with its look-up / Keyturn: ${times(figures.fasterThanPrefixed)}`,
    `- memory: ${count(figures.bytesPerKey)} bytes for each key`,
  ].join('\n')
}

export function signaturesReport(figures: SignatureFigures): string {
  const { rounds, us: each } = figures
  return [
    table(
      ['one signed request', `median of ${rounds} rounds`],
      [
        ['bare: HMAC-SHA-256 over the same signature base', us(each.bareHmac)],
        ['**Keyturn, RFC 9421, hmac-sha256**', us(each.hmac)],
        ['**Keyturn, plain header fields**', us(each.plain)],
        ['hawk: `server.authenticate`', us(each.hawk)],
        ['http-message-signatures: `verifyMessage`, hmac-sha256', us(each.library)],
        ['bare: Ed25519 over the same signature base', us(each.bareEd25519)],
        ['**Keyturn, RFC 9421, ed25519**', us(each.ed25519)],
      ],
    ),
    '',
    `- Keyturn, hmac-sha256 / bare HMAC: ${judged(figures.hmacOverBare, { atMost: 3 })}`,
    `- Keyturn, plain header fields / bare HMAC: ${times(figures.plainOverBare)}`,
    `- hawk / Keyturn, hmac-sha256: ${judged(figures.fasterThanHawk, { atLeast: 1 })}`,
    `- http-message-signatures / Keyturn, hmac-sha256: ${times(figures.fasterThanLibrary)}`,
    `- Keyturn, ed25519 / bare Ed25519: ${judged(figures.ed25519OverBare, { atMost: 1.2 })}`,
  ].join('\n')
}

export function replayReport({ nonces, rounds, us: each, bytes, overMap, overSet }: ReplayFigures): string {
  const row = (name: string, of: keyof ReplayFigures['us']): string[] => [
    name,
    us(each[of]),
    count(1_000_000 / each[of]),
    count(bytes[of]),
  ]
  return [
    table(
      [`one fresh nonce, ${count(nonces)} in memory`, `median of ${rounds} rounds`, 'a second', 'bytes for each'],
      [
        row('bare: look up and set in a Map', 'map'),
        row('**Keyturn, in one process**', 'guard'),
        row('bare: `SET NX PX` in Redis, 256 under way', 'redisSet'),
        row('**Keyturn, over Redis, 256 under way**', 'redisGuard'),
      ],
    ),
    '',
    `- Keyturn in one process / Map: ${times(overMap)}`,
    `- Keyturn over Redis / \`SET NX PX\`: ${times(overSet)}`,
  ].join('\n')
}

export function loadReport({ keys, rounds, readyMs, discardMs, ratio, bytes }: LoadFigures): string {
  return [
    table(
      [`${count(keys)} keys from Kafka`, `median of ${rounds} rounds`],
      [
        ['kafkajs, everything thrown away', ms(discardMs)],
        ['**a gateway, from `start()` to ready**', ms(readyMs)],
      ],
    ),
    '',
    `- gateway / discarding, median over the rounds: **${times(ratio)}**`,
    `- memory: ${Math.round(bytes / keys)} bytes for each key, ${Math.round(bytes / 1e6)} MB for all`,
  ].join('\n')
}

const HEAD = ['p50', 'p90', 'p99', 'longest']
const cells = ({ p50, p90, p99, max }: Distribution): string[] => [p50, p90, p99, max].map(ms)

export function baselinesReport({ oneActivityMs, produceToConsumeMs }: BaselineFigures): string {
  return table(
    [`what Temporal and Kafka take alone, ${oneActivityMs.samples} samples`, ...HEAD],
    [
      ['a workflow with one activity that does nothing, from start to result', ...cells(oneActivityMs)],
      ['one message from kafkajs to kafkajs', ...cells(produceToConsumeMs)],
    ],
  )
}

/** How long a dead key lives elsewhere: facts with their sources, and beside them what was measured here. */
const ELSEWHERE = [
  [
    'Google API keys',
    'median about 16 min, 8 to 23 min',
    'no',
    'Aikido Security, “Google API keys keep working after you delete them”, 2026',
  ],
  ['AWS access keys', 'about 4 s', 'no', 'OFFENSAI’s research, quoted there'],
  ['Apigee API keys', 'cached for 180 s in each message processor', 'no', 'an answer in Apigee’s community'],
  [
    'Unkey',
    'key cache fresh for 10 s, served stale for up to 10 min while it refreshes',
    'no',
    '`internal/services/caches/caches.go` in unkeyed/unkey',
  ],
]

export function revocationReport(figures: RevocationFigures): string {
  const { refusedMs, appliedMs, oneActivityMs, produceToConsumeMs, gateways, steps } = figures
  return [
    table(
      [`from the POST of \`deactivate-now\`, ${refusedMs.samples} samples`, ...HEAD],
      [
        ['**until the last of three gateways refused a request**', ...cells(refusedMs)],
        ...Object.entries(gateways).map(([id, refused]) => [`until ${id} refused one`, ...cells(refused)]),
        ['until the last had applied it, by the receipt', ...cells(appliedMs)],
        ['peer: a workflow with one activity, start to result', ...cells(oneActivityMs)],
        ['peer: one message from kafkajs to kafkajs', ...cells(produceToConsumeMs)],
      ],
    ),
    '',
    `- last refusal / (workflow + message), median over the rounds: ${judged(figures.ratio, { atMost: 2.5 })}; of the medians: ${times(figures.ratioOfMedians)}`,
    '',
    table(
      ['where the time goes', 'median'],
      STEPS.map((step) => [step, ms(steps[step])]),
    ),
    '',
    table(
      ['how long a dead key lives', 'from “revoked” to the last accepted request', 'can you know when it is over?', 'source'],
      [
        ...ELSEWHERE,
        [
          '**Keyturn**',
          `**${ms(refusedMs.p50)}, 99 of 100 within ${ms(refusedMs.p99)}, at every gateway**`,
          '**yes: a receipt that names each gateway**',
          'measured here',
        ],
      ],
    ),
  ].join('\n')
}

export function leaksReport({ refusedMs, oneActivityMs, produceToConsumeMs, ratio, steps }: LeakFigures): string {
  return [
    table(
      [`from the POST of a leak report, ${refusedMs.samples} samples`, ...HEAD],
      [
        ['**until the last of three gateways refused a request**', ...cells(refusedMs)],
        ['peer: a workflow with one activity, start to result', ...cells(oneActivityMs)],
        ['peer: one message from kafkajs to kafkajs', ...cells(produceToConsumeMs)],
      ],
    ),
    '',
    `- last refusal / (workflow + message), median over the rounds: ${judged(ratio, { atMost: 3 })}`,
    '',
    table(
      ['where the time goes', 'median'],
      LEAK_STEPS.map((step) => [step, ms(steps[step])]),
    ),
  ].join('\n')
}

export function fleetReport({ keys, rounds, refusedMs, answeredMs, updateMs, messagesMs, ratio }: FleetFigures): string {
  return [
    table(
      [`${count(keys)} keys`, `median of ${rounds} rounds`],
      [
        ['**from the POST of a rollover until the last of three gateways refused the last key**', ms(refusedMs)],
        ['from the POST to its answer: all are dead in the registry', ms(answeredMs)],
        ['peer: one UPDATE of as many rows', ms(updateMs)],
        ['peer: as many messages from kafkajs to kafkajs', ms(messagesMs)],
      ],
    ),
    '',
    `- last refusal / (update + messages), median over the rounds: ${judged(ratio, { atMost: 3 })}`,
  ].join('\n')
}

export function rotationsReport(figures: RotationFigures): string {
  return [
    table(
      [`a minute, ${figures.atOnce} at once, ${figures.rounds} rounds of ${figures.rotations}`, 'median'],
      [
        ['workflows with one activity that does nothing', count(figures.oneActivityAMinute)],
        ['**rotations through all stages**', count(figures.rotationsAMinute)],
      ],
    ),
    '',
    `- rotations / one-activity workflows: **${times(figures.ratio)}**; a rotation is ${figures.activities} activities and ${figures.workflowTasks} workflow tasks, so that ${times(1 / figures.activities)} would be expected of activities alone`,
  ].join('\n')
}

export function notificationsReport(figures: NotificationFigures): string {
  return [
    table(
      [`a second, ${figures.atOnce} at once, ${figures.rounds} rounds of ${figures.notifications}`, 'median'],
      [
        ['workflows with one activity that does nothing', count(figures.oneActivityASecond)],
        ['**clients told by a signed webhook**', count(figures.notificationsASecond)],
      ],
    ),
    '',
    `- clients told / one-activity workflows: **${times(figures.ratio)}**`,
  ].join('\n')
}

export function policiesReport({ credentials, rounds, runPolicyPerSecond, emptyPerSecond, ratio }: PolicyFigures): string {
  return [
    table(
      [`starts a second, ${rounds} rounds of ${count(credentials)}`, 'median'],
      [
        ['empty workflows that nobody works on, 100 calls at once', count(emptyPerSecond)],
        ['**rotations that `runPolicy` starts, each of them on its way**', count(runPolicyPerSecond)],
      ],
    ),
    '',
    `- \`runPolicy\` / empty workflows: **${times(ratio)}**`,
  ].join('\n')
}

export function scanReport(figures: ScanFigures | undefined): string {
  if (figures === undefined) return 'gitleaks can not be had on this machine: nothing was measured.'
  const { tree, rounds, keyturn, gitleaks, gitleaksDecoding, ratio, startMs, nodeMs } = figures
  return [
    table(
      [`${count(tree.files)} files, ${count(tree.bytes / 1_000_000)} MB, ${tree.tokens} tokens`, `median of ${rounds} rounds`],
      [
        ['**`keyturn scan`**', `${count(keyturn)} MB/s`],
        ['gitleaks with the generated rule, nothing decoded', `${count(gitleaks)} MB/s`],
        ['gitleaks as it comes, once', `${count(gitleaksDecoding)} MB/s`],
      ],
    ),
    '',
    `- \`keyturn scan\` / gitleaks: ${judged(ratio, { atLeast: 1 })}`,
    `- to start and find nothing: ${ms(startMs)} of processor time, of which Node.js alone takes ${ms(nodeMs)}`,
  ].join('\n')
}

const block = (name: string): RegExp => new RegExp(`(<!-- figures: ${name} -->\\n)[^]*?(<!-- end -->)`)

/** A README with the figures of one measure in its place. @throws when it has no place for them */
export function withFigures(readme: string, name: string, report: string): string {
  if (!block(name).test(readme)) throw new Error(`bench/README.md has no block for ${name}`)
  return readme.replace(block(name), (_, begin: string, end: string) => `${begin}\n${report}\n\n${end}`)
}
