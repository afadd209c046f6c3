import type { Logger } from 'pino'
import type { Config } from './settings.ts'
import type { Store } from './store/store.ts'

const periodMillis = 60_000

/** Lets the store forget, at the start and then once a minute, what the settings keep no longer. Returns the function that ends it. */
export function startRetention(
  store: Pick<Store, 'forget'>,
  config: Pick<Config, 'logRetention' | 'logMaxSize' | 'historyRetention'>,
  log: Logger,
): () => void {
  const forget = (): void => {
    const now = Date.now()
    const limits = {
      logBefore: config.logRetention === 0 ? 0 : now - config.logRetention,
      logBytes: config.logMaxSize === 0 ? Number.MAX_SAFE_INTEGER : config.logMaxSize,
      historyBefore: config.historyRetention === 0 ? 0 : now - config.historyRetention,
    }
    store.forget(limits).catch((error) => log.error({ err: error }, 'forgetting old readings has failed'))
  }
  forget()
  const timer = setInterval(forget, periodMillis)
  timer.unref()
  return () => clearInterval(timer)
}
