/** The peer of our rotation worker, in a process of its own like it: polls the same way, and does nothing. */
import { fileURLToPath } from 'node:url'
import { NativeConnection, Worker } from '@temporalio/worker'
import { runProcess } from '../../workers/process.ts'
import { ROTATIONS } from '../../workers/rotation-worker.ts'

await runProcess('peer-worker', ['temporal'], async (config) => {
  const connection = await NativeConnection.connect({ address: config.temporalAddress })
  const worker = await Worker.create({
    connection,
    namespace: config.temporalNamespace,
    taskQueue: config.taskQueue,
    workflowsPath: fileURLToPath(new URL('./workflows.ts', import.meta.url)),
    activities: { nothing: async () => {} },
    ...ROTATIONS,
  })
  const stopped = worker.run()
  return {
    stopped,
    async stop() {
      worker.shutdown()
      await stopped
      await connection.close()
    },
  }
})
