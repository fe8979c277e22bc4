; The lab's guest: one boot sector that writes numbered records to all hard disks in lockstep.
;
; Assemble:  nasm -f bin -o guest.bin guest.asm
;
; For every sequence number 1, 2, 3, ... it writes one record to disk 0x80, then to 0x81, and
; so on, and waits for each disk before it turns to the next. So at any instant the last
; numbers on two disks differ by 0 or 1, and the disk that is written first is never behind.
; Images of several disks for which this does not hold are not of one instant.
;
; A record is one sector. It goes to the sector with the number (sequence & 0xffff): a ring of
; 65536 sectors, 32 MiB. Numbers are little-endian.
;
;     offset  size
;          0    16  the magic, "snapkit-sequence"
;         16     4  sequence number
;         20     4  disk number: 0 for disk 0x80, 1 for 0x81, ...
;         24     8  time-stamp counter when the record was made
;         32   480  zeros
;
; After a reset it goes on from the largest number that it finds on any disk, so that numbers
; never run backwards. A transfer that fails is tried again until it succeeds: no record is
; ever left out, and no disk gets ahead of another because one of them had trouble.

        cpu     586
        bits    16
        org     0x7c00

DISK_COUNT      equ     0x475           ; BIOS data area: number of hard disks
FIRST_DISK      equ     0x80
READ            equ     0x42            ; INT 13h, extended read
WRITE           equ     0x4300          ; INT 13h, extended write, without verifying

RING_MASK       equ     0xffff
SECTOR          equ     512

RECORD          equ     0x7e00          ; the record that is written, just after this sector
SEQUENCE        equ     RECORD + 16
DISK            equ     RECORD + 20
STAMP           equ     RECORD + 24

BLOCK_SEGMENT   equ     0x1000          ; where blocks are read to after a reset
BLOCK_SECTORS   equ     64              ; half a segment

; ---------------------------------------------------------------------------------------------

        jmp     0:start                 ; some BIOSes start here with CS = 0x07c0

start:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        cli
        mov     ss, ax
        mov     sp, 0x7c00              ; the stack grows down from below this code
        sti
        cld

        mov     di, RECORD              ; a record of zeros,
        mov     cx, SECTOR / 2
        rep     stosw
        mov     di, RECORD              ; with the magic at its beginning
        call    load_magic
        rep     movsb

count:  cmp     byte [DISK_COUNT], 0    ; without a disk there is nothing to do but wait for one
        je      count

        call    recall

; The work: one sequence number a round, one disk a step.

round:  inc     dword [SEQUENCE]
        mov     dword [DISK], 0

step:   rdtsc
        mov     [STAMP], eax
        mov     [STAMP + 4], edx

        mov     eax, [SEQUENCE]
        and     eax, RING_MASK
        mov     [packet.lba], eax
        mov     word [packet.offset], RECORD
        mov     word [packet.segment], 0
        mov     cx, 1
        mov     ax, WRITE
        mov     dl, [DISK]
        call    transfer

        inc     dword [DISK]
        mov     al, [DISK]
        cmp     al, [DISK_COUNT]
        jb      step
        jmp     round

; ---------------------------------------------------------------------------------------------
; Set SEQUENCE to the largest number on any disk. The ring fills upwards from sector 1, so on
; each disk the search ends at the first sector without the magic: on a fresh disk, at once.
; Sector 0 is the last of the ring's first lap and may be empty.

recall: mov     word [packet.offset], 0
        mov     word [packet.segment], BLOCK_SEGMENT
        mov     dl, 0

.disk:  mov     dword [packet.lba], 0

.block: mov     cx, BLOCK_SECTORS
        mov     ax, READ << 8
        call    transfer

        push    word BLOCK_SEGMENT
        pop     es
        xor     bx, bx                  ; ES:BX, the sector that is looked at

.sector:
        mov     di, bx
        call    load_magic
        repe    cmpsb
        je      .found
        mov     eax, [packet.lba]       ; only sector 0 may lack a record
        or      ax, bx
        jz      .next
        jmp     .done

.found: mov     eax, [es:bx + SEQUENCE - RECORD]
        cmp     eax, [SEQUENCE]
        jbe     .next
        mov     [SEQUENCE], eax

.next:  add     bx, SECTOR
        cmp     bx, BLOCK_SECTORS * SECTOR
        jb      .sector
        add     dword [packet.lba], BLOCK_SECTORS
        cmp     dword [packet.lba], RING_MASK
        jbe     .block

.done:  inc     dx
        cmp     dl, [DISK_COUNT]
        jb      .disk
        ret

; ---------------------------------------------------------------------------------------------
; Point DS:SI at the magic and set CX to its length.

load_magic:
        mov     si, magic
        mov     cx, magic.end - magic
        ret

; ---------------------------------------------------------------------------------------------
; Move CX sectors between the packet's buffer and disk number DL; AX is the BIOS function.
; Comes back only when it has succeeded. Keeps DX.

transfer:
        pusha
        mov     [packet.sectors], cx    ; the BIOS overwrites it with what it has moved
        add     dl, FIRST_DISK
        mov     si, packet
        int     0x13
        popa
        jnc     .done                   ; POPA leaves the flags alone
        pusha
        add     dl, FIRST_DISK
        mov     ah, 0                   ; reset the disk
        int     0x13
        popa
        jmp     transfer
.done:  ret

; ---------------------------------------------------------------------------------------------

magic:  db      "snapkit-sequence"
.end:

        align   4, db 0
packet:         db      16, 0           ; the disk address packet: its size, a zero,
.sectors:       dw      0               ; how many sectors,
.offset:        dw      0               ; from or to where in memory,
.segment:       dw      0
.lba:           dd      0, 0            ; and the first sector's number

        times   510 - ($ - $$) db 0     ; the mark of a boot sector is in its last two bytes
        dw      0xaa55
