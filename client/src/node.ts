/** What needs Node: stores on its disk. */
export * from './index.ts'
