import type { RolloverId } from '@keyturn/contract'
import type { RolloverOrder, RolloverProgress, RolloverStage } from '@keyturn/contract/rollover'
import { WRONG_STAGE } from '@keyturn/contract/rotation'
import {
  ApplicationFailure,
  allHandlersFinished,
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineUpdate,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow'
import { rolloverEnds, rollovers } from './proxies.ts'

export interface RollOverFleetInput {
  readonly rolloverId: RolloverId
}

/** How many rotations a wave starts, and how long after the one before it the next begins at the earliest. */
const WAVE = 50
const WAVE_EVERY_MS = 1_000
/** How long a silent gateway delays the first wave. */
const MOMENT_MS = 5_000
/** A run with a longer history goes on as a new one. */
const LONG_HISTORY = 2_000

const progressQuery = defineQuery<RolloverProgress>('progress')
const pauseUpdate = defineUpdate<RolloverProgress, [RolloverOrder]>('pause')
const resumeUpdate = defineUpdate<RolloverProgress, [RolloverOrder]>('resume')
const cancelUpdate = defineUpdate<RolloverProgress, [RolloverOrder]>('cancel')

/**
 * Looks after a fleet whose keys have been killed: tells the gateways, then brings new keys wave by wave. All that it knows is
 * in the registry, so that a new run goes on where the one before it stood. Its workflow id is `rollover/<rolloverId>`.
 */
export async function rollOverFleet(input: RollOverFleetInput): Promise<RolloverStage> {
  const { rolloverId } = input
  let stage: RolloverStage = 'killing'
  const { stage: left, ended, confirmed } = await rollovers.readRollover({ rolloverId })
  if (ended) return left
  stage = left

  let writing: Promise<void> = Promise.resolve()
  /** The stages are stored in the order in which they are entered. */
  const enter = async (next: RolloverStage, { reason, actor }: Partial<RolloverOrder> = {}): Promise<void> => {
    stage = next
    const entry = {
      rolloverId,
      stage: next,
      actor: actor ?? 'keyturn',
      at: Date.now(),
      ...(reason === undefined ? {} : { reason }),
    }
    writing = writing.then(() => rollovers.enterRolloverStage(entry))
    await writing
  }
  const progress = (): RolloverProgress => ({ rolloverId, stage })
  const order =
    (next: RolloverStage) =>
    async (given: RolloverOrder): Promise<RolloverProgress> => {
      await CancellationScope.nonCancellable(() => enter(next, given))
      return progress()
    }
  const allowedIn = (stages: readonly RolloverStage[], rule: string) => ({
    validator: (_: RolloverOrder) => {
      if (!stages.includes(stage)) throw ApplicationFailure.nonRetryable(`${rule}; this one is ${stage}`, WRONG_STAGE)
    },
  })
  setHandler(progressQuery, progress)
  setHandler(pauseUpdate, order('paused'), allowedIn(['killing', 'issuing'], 'a rollover is paused while it issues keys'))
  setHandler(resumeUpdate, order('issuing'), allowedIn(['paused'], 'only a paused rollover is resumed'))
  setHandler(
    cancelUpdate,
    order('cancelled'),
    allowedIn(['killing', 'issuing', 'paused'], 'a rollover is cancelled while there are keys to issue'),
  )
  // A cancellation of the workflow is an order like others.
  CancellationScope.current()
    .cancelRequested.catch(() => order('cancelled')({ reason: 'the workflow was cancelled', actor: 'temporal' }))
    .catch(() => {})

  const is = (...stages: readonly RolloverStage[]): boolean => stages.includes(stage)
  return CancellationScope.nonCancellable(async () => {
    // Whatever a person has ordered meanwhile: the gateways are told first.
    if (!confirmed) await rollovers.propagateRollover({ rolloverId, waitMs: MOMENT_MS })
    if (is('killing')) await enter('issuing')
    while (!is('confirming', 'cancelled')) {
      await condition(() => !is('paused'))
      if (is('cancelled')) break
      const until = Date.now() + WAVE_EVERY_MS
      const { more } = await rollovers.issueWave({ rolloverId, size: WAVE })
      if (more) await condition(() => is('cancelled'), Math.max(1, until - Date.now()))
      else if (is('issuing')) await enter('confirming')
      if (workflowInfo().historyLength > LONG_HISTORY || workflowInfo().continueAsNewSuggested) {
        await condition(allHandlersFinished)
        await continueAsNew<typeof rollOverFleet>(input)
      }
    }
    await rolloverEnds.awaitRolloverReceipt({ rolloverId })
    if (is('confirming')) await rolloverEnds.awaitRotations({ rolloverId })
    await writing
    const last: RolloverStage = is('cancelled') ? 'cancelled' : 'completed'
    await rollovers.enterRolloverStage({ rolloverId, stage: last, ended: true, actor: 'keyturn', at: Date.now() })
    stage = last
    await condition(allHandlersFinished)
    return stage
  })
}
