// What a program imports.

export {};
