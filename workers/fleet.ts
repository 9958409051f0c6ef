/** How the worker's fleet rollovers start rotations: as the API does. */
import type { Client } from '@temporalio/client'
import type { StartRotation } from '../activities/rollovers.ts'
import { ApiError } from '../api/problems.ts'
import { triggerRotation } from '../api/temporal.ts'
import { RegistryError } from '../registry/errors.ts'

export const startRotations =
  (client: Client, taskQueue: string): StartRotation =>
  async (target, request) => {
    try {
      return await triggerRotation(client, taskQueue, target, request)
    } catch (error) {
      if (error instanceof ApiError) throw new RegistryError(error.code, error.message, { cause: error })
      throw error
    }
  }
