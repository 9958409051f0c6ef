import { SEARCH_ATTRIBUTES } from '@keyturn/contract/rotation'
import { Connection, isGrpcServiceError } from '@temporalio/client'

/** Temporal's number for the type Keyword. */
const KEYWORD = 2
/** gRPC's number for ALREADY_EXISTS. */
const ALREADY_EXISTS = 6

/** Makes the search attributes that a namespace lacks; without them no rotation runs. */
export async function ensureSearchAttributes(address: string, namespace: string): Promise<void> {
  const connection = await Connection.connect({ address })
  try {
    for (const name of SEARCH_ATTRIBUTES) {
      await connection.operatorService
        .addSearchAttributes({ namespace, searchAttributes: { [name]: KEYWORD } })
        .catch((error: unknown) => {
          if (!isGrpcServiceError(error) || error.code !== ALREADY_EXISTS) throw error
        })
    }
  } finally {
    await connection.close()
  }
}
