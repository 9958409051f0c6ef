/** What needs Node: stores on its disk. */
export * from './index.ts'
export { type EnvFileOptions, envFileStore } from './stores/env-file.ts'
export { fileStore } from './stores/file.ts'
