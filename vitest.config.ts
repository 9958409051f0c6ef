import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What takes longest, longest first: it is begun first, so that nobody waits for it at the end. */
const LONGEST = [
  'faults/kill',
  'demo/start',
  'api/servers-gone',
  'leaks/',
  'cli/',
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

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    // One more than the cores of a small machine: many tests wait for what happens by itself.
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    // On a busy machine everything takes ten times as long, and comes all the same.
    hookTimeout: 180_000,
    testTimeout: 300_000,
    teardownTimeout: 30_000,
    reporters: ['default', ['json', { outputFile: '.keyturn/test-report.json' }]],
  },
})
