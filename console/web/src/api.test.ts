import { expect, test } from "vitest";
import { warningsIn } from "./api";

test("warnings are read without their quotes", () => {
  expect(warningsIn('299 - "no subset \\"v9\\", write another", 299 - "second"')).toEqual(['no subset "v9", write another', "second"]);
  expect(warningsIn("")).toEqual([]);
});
