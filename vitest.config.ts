import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What takes longest is begun first, so that nobody waits for it at the end; but what starts a whole house of processes not all at once. */
const LONGEST = [
  'faults/kill',
  'leaks/',
  'demo/start',
  'cli/',
  'api/servers-gone',
  'activities/republish',
  'integration/',
  'workflows/',
]

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const known = LONGEST.findIndex((part) => moduleId.includes(`/test/${part}`))
      return known < 0 ? LONGEST.length : known
    }
    return (await super.sort(files)).sort((a, b) => place(a) - place(b))
  }
}

/** They start no worker of Temporal in their own process; so they can share one, and load what they import once. */
const SHARING = ['contract', 'planning', 'registry', 'gateway'].map((room) => `test/${room}/**/*.test.ts`)

const shared = {
  pool: 'forks',
  // As many as a small machine has cores: most tests start processes of their own beside them.
  maxWorkers: 2,
  // On a busy machine everything takes ten times as long, and comes all the same.
  hookTimeout: 180_000,
  testTimeout: 300_000,
} as const

export default defineConfig({
  test: {
    globalSetup: ['test/support/global-setup.ts'],
    sequence: { sequencer: LongestFirst },
    teardownTimeout: 30_000,
    reporters: ['default', ['json', { outputFile: '.keyturn/test-report.json' }]],
    projects: [
      { test: { ...shared, name: 'own', include: ['test/**/*.test.ts'], exclude: SHARING } },
      { test: { ...shared, name: 'sharing', include: SHARING, isolate: false } },
    ],
  },
})
