# SPDX-License-Identifier: BSD-3-Clause
"""`wbcache report`: one page in HTML, complete in itself, about a running server or a log."""
