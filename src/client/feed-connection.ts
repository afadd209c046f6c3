import type { Page } from './frame.ts'
import type { Transport } from './transport.ts'

/** What a mode works with. It opens one connection, or asks again and again, and leaves failing to its caller. */
export interface Connection {
  transport: Transport
  /** Of the feed from a place, with the reader's filter. */
  address(after: string): URL
  after: string
  /** Readings of one frame. */
  limit: number
  intervalMillis: number
  silenceMillis: number
  /** Belongs to this connection: aborted when its reader leaves, and by the mode when nothing is heard. */
  controller: AbortController
  /** A plain request, answered at once. */
  ask(after: string): Promise<Page>
}
