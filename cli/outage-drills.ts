/** The drills that take a server away from the local stack. */
import { latestRotation, type Practice } from './practice.ts'

export async function kafkaDown(practice: Practice): Promise<void> {
  const { api, victim, check, type, everywhere, order, answers, aftermath } = practice
  await order({ do: 'stop', server: 'kafka' })
  await check('Kafka is away', async () => !(await answers('kafka')))
  await check('every gateway goes on with what it knows', () => everywhere(victim.token, true))
  await type('the command has succeeded', ['emergency', victim.credentialId, '--reason', 'drill: Kafka is down'])
  await check('every gateway refuses the key without Kafka', () => everywhere(victim.token, false))
  await check('the rotation waits for Kafka', async () => (await latestRotation(api, victim))?.stage !== 'completed')
  await order({ do: 'start', server: 'kafka' })
  await everyoneFresh(practice)
  await aftermath()
}

/** What `keyturn gateway list` shows. */
export async function everyoneFresh({ api, gateways, check }: Practice): Promise<void> {
  await check('every gateway is fresh again (`keyturn gateway list`)', async () => {
    const listed = await api.get<{ gateways: { freshness: string; live: boolean }[] }>('/v1/gateways')
    return listed.gateways.filter(({ freshness, live }) => live && freshness === 'fresh').length >= gateways.length
  })
}

export async function temporalDown({ victim, check, type, everywhere, order, answers, aftermath }: Practice): Promise<void> {
  await order({ do: 'stop', server: 'temporal' })
  await check('Temporal is away', async () => !(await answers('temporal')))
  await check('every gateway accepts the key as before', () => everywhere(victim.token, true))
  const reason = ['--reason', 'drill: Temporal is down']
  await type('the command has succeeded, with every receipt', ['emergency', victim.credentialId, ...reason, '--direct'])
  await check('every gateway refuses the key', () => everywhere(victim.token, false))
  await order({ do: 'start', server: 'temporal' })
  await check('Temporal is back', () => answers('temporal'))
  await aftermath()
}

export async function postgresqlRestored(practice: Practice): Promise<void> {
  const { victim, check, type, everywhere, order, answers, newToken } = practice
  const back = (): Promise<void> => check('PostgreSQL is back', () => answers('postgres'))
  const reason = ['--reason', 'drill: PostgreSQL was restored']
  const dead = (when: string): Promise<void> => check(`no gateway accepts the key ${when}`, () => everywhere(victim.token, false))
  await order({ do: 'back-up' })
  await back()
  await type('a key is revoked after the backup', ['emergency', victim.credentialId, ...reason])
  await dead('any more')
  await practice.aftermath()
  await order({ do: 'restore' })
  await back()
  await type('nothing is published from the restored registry', ['republish'], { code: 1 })
  await type('the command has shown what the registry does not know', ['recover', '--dry-run'])
  await dead('that the registry takes for alive')
  await type('the command has taken it over', ['recover', ...reason])
  await order({ do: 'keep' })
  await type('the registry can be published again', ['republish'])
  await type('the audit log is whole', ['audit', 'verify'])
  await dead('after everything was published')
  await check('every gateway accepts the key that was issued after the backup', async () => {
    const token = await newToken()
    return token !== undefined && everywhere(token, true)
  })
  await recovered(practice)
}

async function recovered({ api, victim, check }: Practice): Promise<void> {
  await check('the registry has the dead key as compromised, and its successor as active', async () => {
    const { keys } = await api.get<{ keys: { keyId: string; state: string }[] }>(`/v1/credentials/${victim.credentialId}`)
    const states = keys.map(({ keyId, state }) => `${keyId === victim.keyId ? 'dead' : 'new'} ${state}`).sort()
    return `${states}` === 'dead compromised,new active'
  })
}
