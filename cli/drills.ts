/** The drills: what a playbook has an operator type, on a client that is made for it. */
import type { ServiceName } from '../infra/stack/index.ts'
import { kafkaDown, postgresqlRestored, temporalDown } from './outage-drills.ts'
import type { Practice, Victim } from './practice.ts'
import { lostSigningKey } from './signing-key-drill.ts'

interface Drill {
  readonly about: string
  /** The servers that it stops, or reads the data of. */
  readonly servers?: readonly ServiceName[]
  readonly steps: (practice: Practice) => Promise<void>
}

/** The playbook's command that kills the key. What is secret goes to its standard input. */
const kill =
  (command: (victim: Victim) => { readonly args: readonly string[]; readonly input?: string }) =>
  async ({ victim, type, check, everywhere, aftermath }: Practice): Promise<void> => {
    const { args, ...options } = command(victim)
    await type('the command has succeeded', args, options)
    await check('every gateway refuses the key', () => everywhere(victim.token, false))
    await aftermath()
  }

export const DRILLS: Readonly<Record<string, Drill>> = {
  insider: {
    about: 'somebody inside has seen one key',
    steps: kill(({ credentialId }) => ({ args: ['emergency', credentialId, '--reason', 'drill: insider'] })),
  },
  'kafka-down': { about: 'Kafka is down, and a key has leaked', servers: ['kafka'], steps: kafkaDown },
  leak: {
    about: 'a key lies in public code',
    steps: kill(({ token }) => ({ args: ['leak', 'report', '--source', 'drill'], input: `${token}\n` })),
  },
  'lost-signing-key': {
    about: 'the key that signs answers to gateways is lost',
    servers: ['kafka'],
    steps: lostSigningKey,
  },
  'postgresql-restored': {
    about: 'PostgreSQL was restored from a backup that takes a dead key for alive',
    servers: ['postgres'],
    steps: postgresqlRestored,
  },
  'provider-breach': {
    about: 'all keys of a kind may be in strange hands',
    steps: kill(({ clientId }) => ({
      args: ['emergency', '--select', `client=${clientId}`, '--yes', '--reason', 'drill: provider breach'],
    })),
  },
  'temporal-down': { about: 'Temporal is down, and a key has leaked', servers: ['temporal'], steps: temporalDown },
}
