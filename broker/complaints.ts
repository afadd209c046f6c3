import { createBucket } from './bucket.ts'
import type { Peer } from './peer.ts'

/** A log that a hostile client can fill is a disk that it can fill. */
const complaintsPerSecond = 10
const burstSeconds = 5

/** Passes on why connections ended, but not more often than somebody could read. */
export function createComplaints(tell: (client: string, reason: string, peer: Peer | undefined) => void) {
  const rate = createBucket(complaintsPerSecond, burstSeconds)
  let untold = 0
  return (client: string, reason: string, peer: Peer | undefined): void => {
    if ((rate?.wait() ?? 0) > 0) {
      untold++
      return
    }
    rate?.take(1)
    tell(client, untold === 0 ? reason : `${reason} (and ${untold} others before it, for their own reasons)`, peer)
    untold = 0
  }
}
