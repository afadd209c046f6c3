import type { Aedes, PublishPacket } from 'aedes'
import type { Doorman, Guest } from './doorman.ts'
import type { Ingest } from './ingest.ts'
import type { Sessions } from './sessions/sessions.ts'
import type { Orphan } from './sessions/wills.ts'

/**
 * The connections of a former run that was killed have ended, so their wills are due: each as its owner would publish it
 * now, and none of those whose owners may not.
 */
export function publishOrphans(aedes: Aedes, { wills }: Sessions, ingest: Ingest, doorman: Doorman): void {
  function publish({ client, owner, will }: Orphan): void {
    const visitor = doorman.recall(owner)
    if (!visitor) return wills.disown(client)
    const gone = { id: client, closed: true, visitor } as Guest & { closed: true }
    ingest.authorizePublish(gone, will as PublishPacket, (error) => {
      if (error) wills.disown(client)
      else aedes.publish(will, () => wills.published(client))
    })
  }
  for (const orphan of wills.orphans) publish(orphan)
}
