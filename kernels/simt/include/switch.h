// Switching between the stacks of fibers: in assembly where the processor is known, by ucontext elsewhere.
#pragma once

#if !defined(LUMOS_SIMT_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define LUMOS_SIMT_UCONTEXT 1
#endif
#if defined(LUMOS_SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace simt {
namespace {

#if defined(LUMOS_SIMT_UCONTEXT)
struct Context {
    ucontext_t state;
};
void jump(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#else
struct Context {
    void* sp = nullptr;
};
extern "C" void lumos_simt_jump(void** save, void* load);
extern "C" void lumos_simt_start();
#if defined(__x86_64__)
// Callee-saved registers of the System V convention, then the stack pointer.
asm(R"(
.text
.globl lumos_simt_jump
.type lumos_simt_jump,@function
lumos_simt_jump:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size lumos_simt_jump,.-lumos_simt_jump
)");
#else
// x19 to x30 and d8 to d15 of the AArch64 convention.
asm(R"(
.text
.globl lumos_simt_jump
.type lumos_simt_jump,%function
lumos_simt_jump:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size lumos_simt_jump,.-lumos_simt_jump
)");
#endif
void jump(Context& from, Context& to) { lumos_simt_jump(&from.sp, to.sp); }
#endif

} // namespace
} // namespace simt
