import { hubNow } from './api.ts'
import type { FeedState } from './feed.ts'
import type { Fleet } from './fleet.ts'
import { formatCount, formatInstant, formatRate } from './format.ts'
import { find, write } from './page.ts'

const feedTexts: Record<FeedState, string> = {
  connecting: 'connecting',
  live: 'live',
  reconnecting: 'reconnecting',
  offline: 'offline',
}

export interface Status {
  feed(state: FeedState, cause: Error | null): void
  /** Why the hub stores nothing at present, or `null`. */
  storage(failure: string | null): void
  draw(fleet: Fleet): void
}

/** The head of the page: how the feed, the hub and the fleet are. */
export function createStatus(): Status {
  const feed = find('feed', HTMLElement)
  const notice = find('notice', HTMLElement)
  const noticeText = find('notice-text', HTMLElement)
  let state: FeedState = 'connecting'
  let failure: string | null = null
  let lastLive = 0
  let reason = ''

  function drawNotice(): void {
    const text = noticeOf()
    notice.hidden = text === ''
    write(noticeText, text)
    find('retry', HTMLElement).hidden = state !== 'offline'
  }

  function noticeOf(): string {
    if (state !== 'offline') return failure === null ? '' : `The hub takes in no readings: ${failure}`
    const since = lastLive === 0 ? '' : ` You see what was known at ${formatInstant(lastLive, hubNow())}.`
    return `${reason} It is tried again every few seconds.${since}`
  }

  return {
    feed(newState, cause) {
      if (state === 'live') lastLive = hubNow()
      state = newState
      reason = !navigator.onLine ? 'This computer is offline.' : (cause?.message ?? 'The hub does not answer.')
      feed.dataset.state = newState
      document.body.dataset.feed = newState
      write(feed, feedTexts[newState])
      drawNotice()
    },
    storage(newFailure) {
      failure = newFailure
      drawNotice()
    },
    draw(fleet) {
      const live = state === 'live'
      write(find('rate', HTMLElement), live ? formatRate(fleet.rate(hubNow())) : '–')
      const online = live ? formatCount(fleet.online) : '–'
      write(find('online', HTMLElement), `${online} of ${formatCount(fleet.devices.size)}`)
    },
  }
}
