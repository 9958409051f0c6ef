/** What comes on a connection and is no request, or none in time: there is nobody to hand it to, and the answer is written by hand. */
import type { ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ProblemDocument, problem } from '@keyturn/contract'
import { errorCode, problemAnswer } from './incoming.ts'
import { answerUpgrade } from './upgrade-answer.ts'

function problemOf(error: Error): ProblemDocument {
  switch (errorCode(error)) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return problem('request-too-slow', 'The head of the request did not come in time.')
    case 'HPE_HEADER_OVERFLOW':
      return problem('too-large', 'The head of a request is at most 16 KiB.')
    default:
      return problem('invalid-request', 'This is not an HTTP request that can be read.')
  }
}

/** @param under the answer that is under way on this connection, if there is one: what is written behind its head would be taken for its body */
export function answerUnreadable(error: Error, socket: Duplex, under: ServerResponse | undefined): void {
  const begun = under?.headersSent === true && !under.writableFinished
  if (begun || !socket.writable) return void socket.destroy()
  const document = problemOf(error)
  answerUpgrade(socket, document.status, problemAnswer(document, {}))
}
